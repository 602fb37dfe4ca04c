#!/usr/bin/env bash
# Train a complete replacement model of SmolLM2-135M: a transcoder for every MLP and a Lorsa for
# every attention block, from one harvest of your text.
#
#   scripts/train_smollm2.sh TEXT HELDOUT OUT [TOKENS]
#
# TEXT and HELDOUT are files or folders of English text. A million tokens take hours on
# two CPU cores. Interrupt it when you like: the same line goes on.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'
    exit 2
fi
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
text="$1" heldout="$2" out="$3" tokens="${4:-1000000}"

resume=()
if [ -f "$out/run.json" ]; then
    resume=(--resume)
fi
exec "$scripts/run.sh" train --model smollm2-135m \
    --text "$text" --heldout "$heldout" --out "$out" --tokens "$tokens" \
    --layers all --latents 4608 --k 32 \
    --attention-layers all --attention-latents 2304 --attention-k 32 \
    ${resume[@]+"${resume[@]}"}
