"""An ONNX file in 8-bit integers: linear maps by onnxruntime's dynamic quantisation, tables row by row."""

from pathlib import Path

import numpy as np

# Tables of fewer numbers stay floats, as do classifier, biases and norms: they are too small to be worth an error.
SMALL = 1024


def quantize_onnx(source: Path, target: Path) -> None:
    """
    Writes a float32 ONNX file in 8-bit integers, for onnxruntime on a CPU.

    - Linear maps (MatMul by a constant): one scale for each output. In a call, the inputs become integers with one
      scale for the whole batch, and the products are of integers.
    - Tables (Gather from a constant): one scale for each row. The rows that are looked up become floats.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    quantize_tables(model.graph)
    del model.graph.value_info[:]  # shapes and types of the float graph
    tables = target.with_name(f"{target.name}.tables")
    try:
        onnx.save(model, tables)
        quantize_dynamic(tables, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    finally:
        tables.unlink(missing_ok=True)


def quantize_tables(graph) -> None:
    """`table[ids]` becomes `float(integers[ids]) * scales[ids]`, where nothing else reads the table."""
    from onnx import TensorProto, helper, numpy_helper

    initializers = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tables = [
        tensor
        for name, tensor in initializers.items()
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.dims[0] * tensor.dims[1] >= SMALL
        and all(is_lookup(node, name) for node in readers.get(name, [None]))
    ]
    for table in tables:
        rows = numpy_helper.to_array(table)
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        integers = np.rint(rows / np.where(scales == 0, 1, scales)).astype(np.int8)
        graph.initializer.remove(table)
        for part, values in (("integers", integers), ("scales", scales)):
            graph.initializer.append(numpy_helper.from_array(values, f"{table.name}.{part}"))
        for node in readers[table.name]:
            place, (_, ids), (out,) = list(graph.node).index(node), node.input, node.output
            looked_up = [
                helper.make_node("Gather", [f"{table.name}.integers", ids], [f"{out}.integers"]),
                helper.make_node("Gather", [f"{table.name}.scales", ids], [f"{out}.scales"]),
                helper.make_node("Cast", [f"{out}.integers"], [f"{out}.floats"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{out}.floats", f"{out}.scales"], [out]),
            ]
            graph.node.remove(node)
            for new in reversed(looked_up):
                graph.node.insert(place, new)


def is_lookup(node, table: str) -> bool:
    """Whether a node looks up rows of the table: Gather along its first axis."""
    if node is None or node.op_type != "Gather" or node.input[0] != table or node.input[1] == table:
        return False
    return all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
