"""The network and its objectives: pure functions over a namespace of operations; no AnnData, no files, no engine."""
