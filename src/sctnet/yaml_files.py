"""A strict reader of YAML files; errors name the file and the line."""

from typing import Any

import yaml

from sctnet.errors import SctnetError


def load_yaml(text: str, origin: str) -> Any:
    """Return the content of a YAML text: mappings, lists, strings, numbers, dates and null.

    ``origin`` names the text in errors. Raises :class:`SctnetError`, with the line, for what is
    not valid YAML, a key that stands twice in one mapping (PyYAML would silently take the later
    one), and a date or number that cannot be; and for nesting that is too deep.
    """
    try:
        return _read(text, origin)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SctnetError(f"{origin}, line {line}: a character YAML does not allow") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark else origin
        raise SctnetError(f"{place}: not valid YAML: correct it there") from error
    except RecursionError as error:
        raise SctnetError(f"{origin}: nested too deeply: write it with fewer levels") from error


def _read(text: str, origin: str) -> Any:
    loader = _StrictLoader(text)
    loader.name = origin  # all its marks bear it
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise SctnetError(
                        f"{_place(key)}: the key {key.value!r} stands twice: keep one of them"
                    )
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except SctnetError:  # of a node below
            raise
        except ValueError as error:
            raise SctnetError(
                f"{_place(node)}: {node.value!r} is not a possible date or number: "
                "correct it, or put it in quotes"
            ) from error


def _place(node: yaml.Node) -> str:
    return f"{node.start_mark.name}, line {node.start_mark.line + 1}"
