"""Arrays in signatures, fields and aliases that are public say their numbers and their axes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

import valor

SOURCE = Path(valor.__file__).parent
BARE = {"Tensor", "torch.Tensor", "ndarray", "np.ndarray", "NDArray"}
NUMBERS = {
    name
    for name, value in vars(jaxtyping).items()
    if isinstance(value, type) and issubclass(value, jaxtyping.AbstractDtype)
}
WEIGHTS = {
    f"{mapping}[str, {tensor}]"
    for mapping in ("dict", "Mapping")
    for tensor in ("Tensor", "torch.Tensor")
}


def is_bare(annotation: ast.expr | None) -> bool:
    """True for an array without shape anywhere in a type; weights by name have any shapes."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return is_bare(left) or is_bare(right)
        case ast.Constant(value=str(text)):
            return is_bare(ast.parse(text, mode="eval").body)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return any(map(is_bare, parts))
        case ast.Subscript(value=outer, slice=inner):
            name = ast.unparse(outer)
            is_free = name in {"Literal", *NUMBERS} or ast.unparse(annotation) in WEIGHTS
            return not is_free and (is_bare(outer) or is_bare(inner))
        case None:
            return False
        case _:
            return ast.unparse(annotation) in BARE


def types(node: ast.AST) -> Iterator[tuple[str, list[ast.expr | None]]]:
    """What a function takes and returns, what fields of a class hold, what a module calls so."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = (child for child in ast.walk(node.args) if isinstance(child, ast.arg))
            yield node.name, [*(argument.annotation for argument in arguments), node.returns]
        case ast.ClassDef(name=name, body=body) if not name.startswith("_"):
            for field in body:
                if isinstance(field, ast.AnnAssign):
                    yield ast.unparse(field.target), [field.annotation]
        case ast.Module(body=body):
            for part in body:
                if isinstance(part, ast.Assign) and isinstance(part.value, ast.Subscript):
                    yield ast.unparse(part.targets[0]), [part.value]


def bare_types(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        for name, annotations in types(node):
            if not name.startswith("_") and any(map(is_bare, annotations)):
                yield name


@pytest.mark.parametrize(
    "bare",
    [
        "def f(x: Tensor): ...",
        "def f(*, x: np.ndarray | None = None): ...",
        "def f(**x: 'Tensor'): ...",
        "def f(x: Int[Tensor, ' rows']) -> np.ndarray: ...",
        "def f(x: list[Tensor]): ...",
        "def f(x: Union[Tensor, float]): ...",
        "def f() -> 'tuple[int, dict[Modality, np.ndarray]]': ...",
        "def f(x: dict[str, np.ndarray | None]): ...",
        "def f(x: Callable[[Tensor], float]): ...",
        "class A:\n    f: Callable[..., Tensor]",
        "class A:\n    f: torch.Tensor | None = None",
        "f = Callable[[Float[Tensor, ' rows']], Tensor]",
    ],
)
def test_the_sweep_sees_an_array_without_shape(bare: str):
    assert list(bare_types(bare)) == ["f"]


@pytest.mark.parametrize(
    "shaped",
    [
        "def f(x: Int[Tensor, ' rows'] | None) -> None: ...",
        "def f(x: dict[Modality, list[Float[np.ndarray, 'a b']]]): ...",
        "def f(x: Mapping[str, Tensor], y: Literal['a b']) -> dict[str, torch.Tensor]: ...",
        "class A:\n    f: Float[Tensor, '']\n    _g: Tensor",
        "class _A:\n    f: Tensor",
        "f = x[Tensor.a]",
    ],
)
def test_the_sweep_passes_shapes_weights_and_what_is_private(shaped: str):
    assert list(bare_types(shaped)) == []


def test_public_arrays_have_shapes():
    sources = {path.relative_to(SOURCE): path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    bare = {f"{path}:{name}" for path, text in sources.items() for name in bare_types(text)}
    assert bare == set()
