"""Walks and copies of trees, as sqlglot's own do and in a fraction of their time.

A plan looks at every node of its statement some fifty times, so that walking was most of planning.
Lists that grow while they are read take the place of sqlglot's generators within generators.

Invariants: nodes come breadth first, as in `Expr.walk`. A list is of the tree as it was when the
walk began, so that what it leads to may be replaced.
"""

from __future__ import annotations

from typing import TypeVar

from sqlglot import exp

Node = TypeVar("Node", bound=exp.Expr)
_Waiting = list[tuple[exp.Expr, exp.Expr]]  # nodes whose parts are still to be copied, and copies


def below(node: exp.Expr) -> list[exp.Expr]:
    """The nodes right below one, in order."""
    found: list[exp.Expr] = []
    for value in node.args.values():
        if value.__class__ is list:
            found += [one for one in value if isinstance(one, exp.Expr)]
        elif isinstance(value, exp.Expr):
            found.append(value)
    return found


def nodes_of(tree: exp.Expr) -> list[exp.Expr]:
    """Every node of a tree, the tree itself first."""
    return _followed([tree])


def nodes_below(tree: exp.Expr, closed: type[exp.Expr]) -> list[exp.Expr]:
    """Every node below a tree's own, without what is inside nodes of a kind."""
    return _followed(below(tree), closed)


def _followed(found: list[exp.Expr], closed: type[exp.Expr] | None = None) -> list[exp.Expr]:
    """These nodes and all below them, but for what is inside nodes of a kind."""
    for node in found:  # which grows
        if closed is not None and isinstance(node, closed):
            continue
        for value in node.args.values():
            kind = value.__class__
            if kind is str or kind is bool:
                continue
            if kind is list:
                found += [one for one in value if isinstance(one, exp.Expr)]
            elif isinstance(value, exp.Expr):
                found.append(value)
    return found


def nodes_of_shallow(tree: exp.Expr, layers: int) -> list[exp.Expr]:
    """As `nodes_of`, of a tree that others may recurse into.

    Raises:
        RecursionError: it has more layers.
    """
    found, begun = [tree], 0
    for _ in range(layers + 1):
        layer, begun = found[begun:], len(found)
        if not layer:
            return found
        for node in layer:
            for value in node.args.values():
                kind = value.__class__
                if kind is str or kind is bool:
                    continue
                if kind is list:
                    found += [one for one in value if isinstance(one, exp.Expr)]
                elif isinstance(value, exp.Expr):
                    found.append(value)
    raise RecursionError(f"a tree of more than {layers} layers")


def all_of(tree: exp.Expr, *kinds: type[Node]) -> list[Node]:
    """The nodes of some kinds in a tree, the tree itself among them."""
    return [node for node in nodes_of(tree) if isinstance(node, kinds)]


def has(tree: exp.Expr, *kinds: type[exp.Expr]) -> bool:
    """Whether a node of some kinds is in a tree."""
    return any(isinstance(node, kinds) for node in nodes_of(tree))


def copy_of(tree: Node) -> Node:
    """A copy that shares no node with the tree; what nodes' meta points to is shared."""
    root = _bare(tree)
    waiting: _Waiting = [(tree, root)]
    while waiting:
        node, copy = waiting.pop()
        args = copy.args
        for key, value in node.args.items():
            kind = value.__class__
            if kind is str or kind is bool:
                args[key] = value
            elif kind is list:
                args[key] = [
                    _below(one, copy, (key, at), waiting) if isinstance(one, exp.Expr) else one
                    for at, one in enumerate(value)
                ]
            elif isinstance(value, exp.Expr):
                args[key] = _below(value, copy, (key, None), waiting)
            else:
                args[key] = value
    return root


def _below(
    node: exp.Expr, parent: exp.Expr, place: tuple[str, int | None], waiting: _Waiting
) -> exp.Expr:
    made = _bare(node)
    made.parent = parent
    made.arg_key, made.index = place
    waiting.append((node, made))
    return made


def _bare(node: Node) -> Node:
    made = node.__class__()
    if node.comments is not None:
        made.comments = list(node.comments)
    if node._meta is not None:
        made._meta = node._meta.__class__(node._meta)
    if node._type is not None:
        made._type = node._type
    return made
