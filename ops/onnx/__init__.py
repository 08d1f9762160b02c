"""ONNX: models of other frameworks as blocks, and blocks as files that other runtimes read.

`proto` is the only module that knows the file format (and the package ``onnx``); `nodes` is the table of operators, one
function each, filled by the modules of families; `block` runs a graph of nodes; `export` writes one.
"""
