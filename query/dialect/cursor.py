"""A reader over one statement's tokens, for the statements that have a grammar of our own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sqlglot import exp
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import Token, TokenType

from nearql.engine.errors import SqlError, TooLarge, Unsupported
from nearql.query import patience
from nearql.query.dialect.grammar import BROKEN, mark_functions, parsed, unmark
from nearql.query.dialect.lexer import Source
from nearql.query.dialect.stack import with_room

Item = TypeVar("Item")
_DEPTH = {
    TokenType.L_PAREN: 1, TokenType.L_BRACKET: 1, TokenType.L_BRACE: 1,
    TokenType.R_PAREN: -1, TokenType.R_BRACKET: -1, TokenType.R_BRACE: -1,
}  # fmt: skip
_MISSING = re.compile(r"Required keyword: '\w+' missing for <class")
_TOKEN = re.compile(r"<Token token_type: [\w.]+, text: (?:SENTINEL|(.*?)), line: .*>")
_QUOTED = (TokenType.STRING, TokenType.HEREDOC_STRING, TokenType.NATIONAL_STRING)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, whatever the case; None where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    found = nearest(name, candidates)
    return f" Did you mean {found!r}?" if found else ""


class Cursor:
    """Reads tokens from the left. Invariant: `at` is the next token's index, at most
    `len(tokens)`."""

    def __init__(
        self, source: Source, tokens: Sequence[Token] | None = None, end: int | None = None
    ) -> None:
        self.source = source
        self.tokens = tuple(source.tokens if tokens is None else tokens)
        self.end = int(source.tokens[-1].end) + 2 if end is None else end
        self.at = 0

    @property
    def done(self) -> bool:
        """Whether everything was read."""
        return self.at >= len(self.tokens)

    @property
    def position(self) -> int:
        """1-based position of the next token in the request, or of the end of the statement."""
        if not self.done:
            return int(self.tokens[self.at].start) + 1
        return self.end

    def _words(self, index: int) -> list[str]:
        """A token in upper case; several words where sqlglot makes one token of them (PRIMARY
        KEY)."""
        if index >= len(self.tokens):
            return []
        token = self.tokens[index]
        if token.token_type in _QUOTED or token.token_type is TokenType.IDENTIFIER:
            return []
        return str(token.text).upper().split()

    def word(self, ahead: int = 0) -> str:
        """A coming token's first word in upper case; "" at the end and for strings and quoted
        names."""
        return next(iter(self._words(self.at + ahead)), "")

    def _end_of(self, words: Sequence[str]) -> int | None:
        """The index after these words, where they come next and end with a token."""
        index, left = self.at, list(words)
        while left:
            found = self._words(index)
            if not found or left[: len(found)] != found:
                return None
            left, index = left[len(found) :], index + 1
        return index

    def accept(self, *words: str) -> bool:
        """Read these words if they come next, all of them."""
        end = self._end_of(words)
        if end is None:
            return False
        self.at = end
        return True

    def accept_any(self, *words: str) -> str | None:
        """Read one of these words if it comes next; which one."""
        return next((word for word in words if self.accept(word)), None)

    def expect(self, *words: str) -> None:
        """Read these words.

        Raises:
            SqlError: something else comes.
        """
        if not self.accept(*words):
            raise self.unexpected(" ".join(words))

    def expect_end(self) -> None:
        """Nothing may follow."""
        if not self.done:
            raise self.unexpected("the end of the statement")

    def unexpected(self, wanted: str) -> SqlError:
        """The error for the next token."""
        if self.done:
            return SqlError(
                f"The statement ends where {wanted} was expected.", position=self.position
            )
        got = self.shown()
        return SqlError(f"Unexpected {got!r}; expected {wanted}.", position=self.position)

    def refuse(self, detail: str) -> Unsupported:
        """An Unsupported at the next token's place."""
        return Unsupported(detail, position=self.position)

    def shown(self) -> str:
        """The next token as written, shortened."""
        token = self.tokens[self.at]
        written = self.source.request[int(token.start) : int(token.end) + 1]
        return written if len(written) <= 40 else written[:37] + "..."

    def name(self, what: str = "a name") -> str:
        """Read an identifier; unquoted ones may be keywords that aren't operators."""
        if not self.done:
            token = self.tokens[self.at]
            if token.token_type is TokenType.IDENTIFIER or _is_word(str(token.text), token):
                self.at += 1
                return str(token.text)
        raise self.unexpected(what)

    def table(self) -> str:
        """Read a table's name; a schema other than `main` or `public` is refused."""
        name = self.name("a table name")
        if self.accept("."):
            if name.lower() not in ("main", "public"):
                raise Unsupported(
                    f"There are no schemas: name the table without {name!r}.",
                    position=self.position,
                )
            name = self.name("a table name")
        return name

    def string(self, what: str = "a string") -> str:
        """Read a string literal."""
        if not self.done and self.tokens[self.at].token_type in _QUOTED:
            self.at += 1
            return str(self.tokens[self.at - 1].text)
        raise self.unexpected(what)

    def integer(self, what: str = "a whole number") -> int:
        """Read an unsigned integer."""
        if not self.done and self.tokens[self.at].token_type is TokenType.NUMBER:
            text = str(self.tokens[self.at].text).replace("_", "")
            if text.isdigit():
                self.at += 1
                return int(text)
        raise self.unexpected(what)

    def inside(self) -> Cursor:
        """Read a bracketed part; a cursor over what is inside."""
        self.expect("(")
        start, depth = self.at, 1
        while depth and not self.done:
            depth += _DEPTH.get(self.tokens[self.at].token_type, 0)
            self.at += 1
        return Cursor(self.source, self.tokens[start : self.at - 1], self._starts(self.at - 1))

    def _starts(self, index: int) -> int:
        """1-based position of a token, or of the end."""
        return int(self.tokens[index].start) + 1 if index < len(self.tokens) else self.end

    def until(self, *words: str) -> Cursor:
        """Read up to one of these words outside brackets, or to the end; a cursor over that part.

        `"ON CONFLICT"` stands for the two words in a row.
        """
        stops = [word.split() for word in words]
        start, depth = self.at, 0
        while not self.done:
            if depth == 0 and any(self._end_of(stop) for stop in stops):
                break
            depth += _DEPTH.get(self.tokens[self.at].token_type, 0)
            self.at += 1
        return Cursor(self.source, self.tokens[start : self.at], self._starts(self.at))

    def split(self) -> list[Cursor]:
        """The parts between commas outside brackets."""
        parts: list[Cursor] = []
        while not self.done:
            parts.append(self.until(","))
            if self.accept(",") and self.done:
                raise self.unexpected("another item after ','")
        return parts

    def listed(self, read: Callable[[], Item]) -> list[Item]:
        """Read items with commas between them."""
        items = [read()]
        while self.accept(","):
            items.append(read())
        return items

    @property
    def text(self) -> str:
        """What this cursor covers, as written."""
        if not self.tokens:
            return ""
        return self.source.request[int(self.tokens[0].start) : int(self.tokens[-1].end) + 1]

    def expression(self, what: str = "an expression") -> exp.Expr:
        """Everything that this cursor covers as one scalar expression."""
        if self.done:
            raise self.unexpected(what)
        select = parse_tokens(self.source, [_SELECT, *self.tokens[self.at :]])
        items = select.expressions if isinstance(select, exp.Select) else []
        if (
            len(items) != 1
            or set(select.args) - {"expressions"}
            and any(
                value
                for key, value in select.args.items()
                if key not in ("expressions", "kind", "hint")
            )
        ):
            raise self.unexpected(what)
        self.at = len(self.tokens)
        return items[0].pop()  # type: ignore[no-any-return]


_SELECT = Token(TokenType.SELECT, "SELECT")


def _is_word(text: str, token: Token) -> bool:
    return (
        text.replace("_", "a").replace("$", "a").isalnum()
        and not text[0].isdigit()
        and (token.token_type not in (*_QUOTED, TokenType.NUMBER))
    )


def parse_tokens(source: Source, tokens: Sequence[Token]) -> exp.Expr:
    """One sqlglot tree of these tokens.

    Raises:
        SqlError: with the position of the token that fits nowhere.
    """
    most = source.limits.tokens
    if len(tokens) > most:
        raise TooLarge(
            f"The statement has {len(tokens)} words, numbers and signs; at most {most} are "
            "accepted (limits.sql_tokens). Bind lists as parameters, or send rows in bulk.",
            position=int(tokens[0].start) + 1, setting="sql_tokens",
        )  # fmt: skip
    patience.check()
    try:
        marked = mark_functions(list(tokens))
        trees = with_room(len(marked), lambda: parsed(marked, source.request))
        if len(trees) == 1 and trees[0] is not None:
            return unmark(trees[0])
    except ParseError as error:
        raise _syntax_error(source, tokens, error) from error
    except BROKEN as error:
        raise SqlError(
            "The statement can't be parsed; something is missing or misplaced in it.",
            position=int(tokens[0].start) + 1,
        ) from error
    except RecursionError as error:
        raise SqlError(
            "The statement is nested too deeply.", position=int(tokens[0].start) + 1,
            code="statement_too_complex", sqlstate="54001",
        ) from error  # fmt: skip
    raise SqlError("This is not one statement.", position=int(tokens[0].start) + 1)


def _in_words(description: str) -> str:
    """The parser's description without the names of its classes."""
    if _MISSING.match(description):
        return "something is missing after it"
    return _TOKEN.sub(lambda found: found[1] and f"'{found[1]}'" or "the end", description)


def _syntax_error(source: Source, tokens: Sequence[Token], error: ParseError) -> SqlError:
    found = error.errors[0] if error.errors else {}
    line, col = found.get("line"), found.get("col")
    description = _in_words(str(found.get("description") or error).split("\n", 1)[0].rstrip("."))
    for token in tokens:
        if (token.line, token.col) == (line, col):
            written = source.request[int(token.start) : int(token.end) + 1]
            return SqlError(
                f"Syntax error at {written!r}: {description}.", position=int(token.start) + 1
            )
    return SqlError(f"Syntax error: {description}.", position=int(tokens[-1].end) + 1)
