"""Graph files as other tools write them, made by hand."""

from __future__ import annotations

from typing import Any


def circuit_tracer_value() -> dict[str, Any]:
    """As circuit-tracer 0.5 writes a model of 26 layers, with fields that nobody knows.

    The error of layer 5 and feature 5 of layer 0 have the same id there, and both feed the output.
    """

    def node(node_id: str, layer: str, position: int, kind: str, **more: Any) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "feature": -1,
            "layer": layer,
            "ctx_idx": position,
            "feature_type": kind,
            "token_prob": 0.0,
            "is_target_logit": False,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": f"{node_id}-0",
            "clerp": "",
            "influence": 0.5,
            "activation": None,
            **more,
        }

    feature = "cross layer transcoder"
    return {
        "metadata": {
            "slug": "a-slug",
            "scan": "gemma-2-2b",
            "transcoder_list": [],
            "prompt_tokens": ["<bos>", "1", "2"],
            "prompt": "12",
            "node_threshold": 0.5,
            "schema_version": 1,
            "info": {"creator_name": "somebody", "transcoder_set": "owner/set"},
            "generation_settings": {"max_n_logits": 5, "desired_logit_prob": 0.6},
            "note to self": [1, {"deep": None}],
        },
        "qParams": {
            "pinnedIds": "0_5_2,27_8_2",
            "supernodes": '[["pair","0_5_2","20_93988_2"]]',
            "linkType": "input",
            "clickedId": "20_93988_2",
            "sg_pos": "0.1 0.2",
            "gridsnap": "kept",
        },
        "nodes": [
            node("0_5_2", "0", 2, feature, feature=20, activation=5.59375, vis_link="x"),
            node("20_93988_2", "20", 2, feature, feature=4418893024, activation=1e-3),
            node("0_5_2", "5", 2, "mlp reconstruction error"),
            node("24_-1_1", "24", 1, "mlp reconstruction error"),
            node("E_2_0", "E", 0, "embedding", feature=0),
            node("E_235274_1", "E", 1, "embedding", feature=1),
            node("E_235284_2", "E", 2, "embedding", feature=2),
            node(
                "27_8_2",
                "27",
                2,
                "logit",
                feature=8,
                token_prob=0.2333984375,
                is_target_logit=True,
                clerp='Output "3" (p=0.233)',
                influence=None,
            ),
        ],
        "links": [
            {"source": "E_235284_2", "target": "0_5_2", "weight": 9.75},
            {"source": "E_2_0", "target": "20_93988_2", "weight": -2},
            {"source": "0_5_2", "target": "20_93988_2", "weight": 1.5},
            {"source": "0_5_2", "target": "27_8_2", "weight": 0.25},
            {"source": "20_93988_2", "target": "27_8_2", "weight": 3.5, "colour": "red"},
            {"source": "0_5_2", "target": "27_8_2", "weight": -0.125},
            {"source": "24_-1_1", "target": "27_8_2", "weight": 0.640625},
        ],
        "comment": "survives",
    }


def neuronpedia_value() -> dict[str, Any]:
    """As Neuronpedia writes a complete replacement model of two layers."""
    qk = {
        "pair_wise_contributors": [["E_11_0", "0_cro_4_1", 0.5], ["1_bias_lorsa_bQ_1", "9_x_0", 1]],
        "top_q_marginal_contributors": [["0_cro_4_1", 0.25]],
        "top_k_marginal_contributors": [],
    }
    return {
        "metadata": {
            "slug": "acronym",
            "scan": "qwen3-1.7b",
            "prompt": "a b",
            "prompt_tokens": ["a", " b"],
            "schema_version": 1,
            "feature_details": {"neuronpedia_source_set": "transcoders"},
        },
        "qParams": {},
        "nodes": [
            {
                "node_id": "E_11_0",
                "jsNodeId": "E_11_0",
                "feature": None,
                "feature_type": "embedding",
                "layer": "E",
                "ctx_idx": 0,
                "clerp": 'Emb: "a"',
                "token": "a",
                "activation": None,
            },
            {
                "node_id": "0_cro_4_1",
                "feature": 14,
                "feature_type": "cross layer transcoder",
                "layer": 0,
                "ctx_idx": 1,
                "clerp": "F14",
                "activation": 1.5,
            },
            {
                "node_id": "1_lor_9_1",
                "feature": 64,
                "feature_type": "lorsa",
                "layer": 1,
                "ctx_idx": 1,
                "clerp": "F64",
                "activation": 0.5,
                "qk_tracing_results": qk,
            },
            {
                "node_id": "1_error_attn_1",
                "feature": None,
                "feature_type": "lorsa error",
                "layer": 1,
                "ctx_idx": 1,
                "clerp": 'Err: attn " b"',
            },
            {
                "node_id": "1_bias_lorsa_bD_1",
                "feature": None,
                "feature_type": "bias",
                "layer": 1,
                "ctx_idx": 1,
                "clerp": "L1 Bias (lorsa_bD)",
            },
            {
                "node_id": "2_33_1",
                "feature": 33,
                "feature_type": "logit",
                "layer": 2,
                "ctx_idx": 1,
                "clerp": 'Logit " c" (p=0.900)',
                "token_prob": 0.9,
                "token": " c",
            },
        ],
        "links": [
            {"source": "E_11_0", "target": "0_cro_4_1", "weight": 2.0},
            {"source": "0_cro_4_1", "target": "1_lor_9_1", "weight": 0.5},
            {"source": "1_lor_9_1", "target": "2_33_1", "weight": 1.25},
            {"source": "1_error_attn_1", "target": "2_33_1", "weight": -0.75},
            {"source": "1_bias_lorsa_bD_1", "target": "2_33_1", "weight": 0.0625},
        ],
        "qk_only_nodes": {"9_x_0": {"node_id": "9_x_0", "clerp": "pruned"}},
    }


def llamascopium_value() -> dict[str, Any]:
    """As Llamascopium's server gives out a model of two layers: layers count modules."""
    common = {"is_target_logit": False, "is_from_qk_tracing": False}
    return {
        "metadata": {"prompt_tokens": ["a", " b"], "prompt": "a b", "schema_version": 1},
        "nodes": [
            {
                "feature_type": "embedding",
                "node_id": "E_11_0",
                "layer": -1,
                "ctx_idx": 0,
                "token": "a",
                **common,
            },
            {
                "feature_type": "cross layer transcoder",
                "node_id": "1_4_1",
                "layer": 1,
                "ctx_idx": 1,
                "feature": {"feature_index": 4, "sae_name": "tc-0", "logits": [0.5]},
                "sae_name": "tc-0",
                "activation": 1.5,
                "qk_tracing_results": None,
                **common,
            },
            {
                "feature_type": "lorsa",
                "node_id": "2_9_1",
                "layer": 2,
                "ctx_idx": 1,
                "feature": 9,
                "sae_name": "lorsa-1",
                "activation": 0.5,
                "lorsa_pattern": [0.25, 0.75],
                **common,
            },
            {
                "feature_type": "lorsa error",
                "node_id": "2_error_1",
                "layer": 2,
                "ctx_idx": 1,
                **common,
            },
            {
                "feature_type": "bias",
                "node_id": "blocks.0.mlp.hook_b_out:1",
                "layer": 0,
                "ctx_idx": 1,
                **common,
            },
            {
                "feature_type": "logit",
                "node_id": "4_33_1",
                "layer": 4,
                "ctx_idx": 1,
                "token_prob": 0.9,
                "token": " c",
                **common,
                "is_target_logit": True,
            },
        ],
        "links": [
            {"source": "E_11_0", "target": "1_4_1", "weight": 2.0},
            {"source": "1_4_1", "target": "2_9_1", "weight": 0.5},
            {"source": "2_9_1", "target": "4_33_1", "weight": 1.25},
            {"source": "2_error_1", "target": "4_33_1", "weight": -0.75},
            {"source": "blocks.0.mlp.hook_b_out:1", "target": "2_9_1", "weight": 0.0625},
        ],
    }
