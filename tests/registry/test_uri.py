"""Every form of a model's URI, and what is wrong with the others."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.registry.errors import InvalidUri
from rayfleet_operator.registry.uri import (
    AliasUri,
    FileUri,
    LatestUri,
    LoggedModelUri,
    ModelUri,
    ObjectUri,
    RunUri,
    StageUri,
    VersionUri,
    parse,
)

ID = "m-" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("models:/net/3", VersionUri("net", 3)),
        ("models:/net/03", VersionUri("net", 3)),
        ("models:/a@b/3", VersionUri("a@b", 3)),
        ("models:/ünï cödé/3", VersionUri("ünï cödé", 3)),
        ("models:/a\u00a0b\u00ad/3", VersionUri("a\u00a0b\u00ad", 3)),
        ("/a\u00ad\u3000", FileUri(Path("/a\u00ad\u3000"))),
        ("s3://bucket/a\u3000", ObjectUri("s3://bucket/a\u3000")),
        ("models:/100%25?#&/3", VersionUri("100%25?#&", 3)),
        (f"models:/{ID}/3", VersionUri(ID, 3)),
        ("models:/net@champion", AliasUri("net", "champion")),
        ("models:/net@Champion", AliasUri("net", "Champion")),
        ("models:/a@b@c-1_2", AliasUri("a@b", "c-1_2")),
        ("models:/net@7", AliasUri("net", "7")),
        ("models:/net/Production", StageUri("net", "Production")),
        ("models:/net/staging", StageUri("net", "Staging")),
        ("models:/net/ARCHIVED", StageUri("net", "Archived")),
        ("models:/net/none", StageUri("net", "None")),
        ("models:/net/latest", LatestUri("net")),
        ("models:/net/Latest", LatestUri("net")),
        ("models:/net@latest", LatestUri("net")),
        (f"models:/{ID}", LoggedModelUri(ID)),
        ("runs:/abc123/model", RunUri("abc123", "model")),
        ("runs:/abc123/a/b c/", RunUri("abc123", "a/b c")),
        ("s3://bucket/a/b/", ObjectUri("s3://bucket/a/b")),
        ("S3://bucket", ObjectUri("s3://bucket")),
        ("gs://bucket/a", ObjectUri("gs://bucket/a")),
        ("az://container/a", ObjectUri("az://container/a")),
        (
            "abfss://container@account.dfs.core.windows.net/a",
            ObjectUri("abfss://container@account.dfs.core.windows.net/a"),
        ),
        ("file:///models/a%20b", FileUri(Path("/models/a b"))),
        ("file://localhost/models", FileUri(Path("/models"))),
        ("/models/a%20b", FileUri(Path("/models/a%20b"))),
    ],
)
def test_each_form_is_read(uri: str, parsed: ModelUri) -> None:
    assert parse(uri) == parsed


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("models:/net", "names a model and no version of it. Use models:/name/3"),
        ("models:/net/", "neither a version number nor a stage"),
        ("models:/net/champion", "An alias is written models:/net@alias"),
        ("models:/net/-1", "neither a version number"),
        ("models:/net/٣", "neither a version number"),
        ("models:/net/12345678901", "neither a version number"),
        ("models:/net/Production/x", "neither a version number nor a stage"),
        ("models:/net@a b", "aliases hold letters, digits"),
        ("models:/@alias", "names a model and no version"),
        ("models:/ /3", "names no model"),
        ("models:/a:b/3", "names no model"),
        ("models://net/3", "exactly one slash"),
        ("models:net/3", "exactly one slash"),
        ("runs:/abc", "Use runs:/abc/"),
        ("runs:/abc/../def", "names no model in the run"),
        ("runs://abc/model", "names no run"),
        ("runs:/a b/model", "names no run"),
        ("s3:///a", "Use s3://bucket/path"),
        ("s3://bucket/../a", "empty or dotted parts"),
        ("s3://bucket/a?x=1", "Use s3://bucket/path"),
        ("s3://key:secret@bucket/a", "credentials and endpoints come from the environment"),
        ("s3://[a/b", "malformed"),
        ("file://elsewhere/a", "not a file on this machine"),
        ("file:a", "not absolute"),
        ("models/net", "neither an absolute path nor a URI"),
        ("~/net", "neither an absolute path nor a URI"),
        ("", "neither an absolute path nor a URI"),
        ("http://host/model", "scheme 'http'"),
        ("hf://org/model", "models:/name/3"),
        (" models:/net/3", "blanks around it"),
        ("models:/net\n/3", "control characters"),
        ("models:/net\x9b/3", "control characters"),
        ("file:///a%00", "%00, a character that no path holds"),
    ],
)
def test_what_is_wrong_is_said(uri: str, says: str) -> None:
    with pytest.raises(InvalidUri) as error:
        parse(uri)
    assert error.value.reason == "InvalidUri"
    assert says in error.value.message


names = st.text(st.characters(exclude_characters="/: ", exclude_categories=("Cc", "Cs")), min_size=1)


@given(name=names, version=st.integers(0, 10**9), alias=st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True))
def test_a_name_is_kept_as_written(name: str, version: int, alias: str) -> None:
    assert parse(f"models:/{name}/{version}") == VersionUri(name, version)
    expected = LatestUri(name) if alias.lower() == "latest" else AliasUri(name, alias)
    assert parse(f"models:/{name}@{alias}") == expected


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for uri in (text, f"models:/{text}", f"runs:/{text}", f"s3://{text}", f"file:{text}"):
        with suppress(InvalidUri):
            parse(uri)
