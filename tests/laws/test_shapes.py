"""Arrays in the signatures of public functions say their type of number and their axes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import valor

SOURCE = Path(valor.__file__).parent
BARE = {"Tensor", "torch.Tensor", "ndarray", "np.ndarray", "NDArray"}


def is_bare(annotation: ast.expr) -> bool:
    """True for an array without shape, or a union with one; mappings by name hold any shapes."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return is_bare(left) or is_bare(right)
        case ast.Constant(value=str(text)):
            return is_bare(ast.parse(text, mode="eval").body)
        case _:
            return ast.unparse(annotation) in BARE


def bare_signatures(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = (child for child in ast.walk(node.args) if isinstance(child, ast.arg))
        annotations = [argument.annotation for argument in arguments] + [node.returns]
        if not node.name.startswith("_") and any(a and is_bare(a) for a in annotations):
            yield f"{node.lineno} {node.name}"


@pytest.mark.parametrize("bare", ["x: Tensor", "*, x: np.ndarray | None = None", "**x: 'Tensor'"])
def test_the_sweep_sees_an_array_without_shape(bare: str):
    assert list(bare_signatures(f"def f({bare}): ...")) == ["1 f"]
    assert list(bare_signatures("def f(x: Int[Tensor, ' rows']) -> np.ndarray: ...")) == ["1 f"]
    assert not list(bare_signatures("def f(x: Int[Tensor, ' rows'] | None) -> None: ..."))


def test_public_functions_say_the_shapes_of_their_arrays():
    sources = {path.relative_to(SOURCE): path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    bare = {f"{path}:{at}" for path, text in sources.items() for at in bare_signatures(text)}
    assert bare == set()
