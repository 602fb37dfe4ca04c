"""Graphs and features as other tools read and write them.

``graph_document`` holds another tool's graph file without losing anything of it, ``foreign_graph``
opens it as an ``AttributionGraph``, ``graph_writing`` writes ours in the tools' dialects,
``viewer_folder`` lays out what circuit-tracer's server shows, ``feature_files`` and
``neuronpedia_files`` are pages about features in other tools' formats, ``feature_import`` and
``feature_export`` make stores of them and the other way round, ``tables`` writes GraphML and CSV.
Whatever is read is untrusted: JSON only, bounded in size, every number finite, every reference
checked.
"""
