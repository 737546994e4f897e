"""Find the operators that a delegate took, in the graph after allocate_tensors."""

from typing import Any, Dict, Optional


def delegation(interpreter: Any) -> Dict[str, Optional[Any]]:
    """Return delegated_ops, total_ops, partitions and the names of the operators left (sorted).

    The runtime lists the original operators and appends one DELEGATE entry per partition. A walk from
    the DELEGATE's outputs back to its inputs passes the operators that it covers. The counts are None
    if the runtime does not list its operators.
    """
    if not hasattr(interpreter, "_get_ops_details"):
        return {"delegated_ops": None, "total_ops": None, "partitions": None, "left": []}
    listed = interpreter._get_ops_details()  # noqa: SLF001 - the only access to the graph
    operators = [entry for entry in listed if entry["op_name"] != "DELEGATE"]
    partitions = [entry for entry in listed if entry["op_name"] == "DELEGATE"]
    producer = {int(out): place for place, op in enumerate(operators) for out in op["outputs"]}
    covered: set[int] = set()
    for partition in partitions:
        stop = {int(tensor) for tensor in partition["inputs"]}
        open_tensors = [int(tensor) for tensor in partition["outputs"]]
        while open_tensors:
            place = producer.get(open_tensors.pop())
            if place is None or place in covered:
                continue
            covered.add(place)
            open_tensors.extend(int(t) for t in operators[place]["inputs"] if int(t) not in stop)
    left = [op["op_name"] for place, op in enumerate(operators) if place not in covered]
    return {
        "delegated_ops": len(covered),
        "total_ops": len(operators),
        "partitions": len(partitions),
        "left": sorted(left),
    }
