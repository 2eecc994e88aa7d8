"""`corolla tokens` as people type it: what it prints where, what the file says then, and what it refuses."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from corolla import command
from corolla.commands.tokens import tokens as group
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound
from serving.access import tokens
from serving.access.principals import Principal, Scope
from serving.access.principals_file import Principals

Type = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "principals.json"


@pytest.fixture
def typed(path: Path) -> Type:
    """Runs `corolla tokens WORDS`; what it raises is raised."""

    def typed(*words: str) -> Result:
        environment = {"COROLLA_PRINCIPALS": str(path), "COLUMNS": "200"}
        result = CliRunner().invoke(group, list(words), env=environment, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result

    return typed


def known(path: Path, name: str) -> Principal:
    return {principal.name: principal for principal in Principals.read(path).principals}[name]


def fits(text: str, path: Path, name: str) -> bool:
    token = tokens.parse(text)
    return token is not None and any(
        token.id == stored.id and tokens.fits(token, stored) for stored in known(path, name).tokens
    )


def document(typed: Type, *words: str) -> Any:
    return json.loads(typed(*words, "--json").stdout)


# Create


def test_a_new_token_stands_alone_on_standard_output_and_fits_what_the_file_keeps(
    typed: Type, path: Path
) -> None:
    result = typed("create", "birds-app", "--scope", "infer", "--scope", "feedback", "--task", "birds*")

    text = result.stdout.removesuffix("\n")
    assert fits(text, path, "birds-app")
    assert text.partition("_")[2].partition("_")[2] not in result.stderr + path.read_text()
    assert "birds-app may infer, feedback on tasks birds*, never ends; it is shown this once" in result.stderr
    principal = known(path, "birds-app")
    assert (principal.scopes, principal.tasks) == ((Scope.INFER, Scope.FEEDBACK), ("birds*",))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_right_of_a_principal_has_its_flag(typed: Type, path: Path) -> None:
    rights = (
        "--scope infer --task a --task b-* --route a/prod --requests-per-s 5 --rows-per-s 20.5 --weight 2"
    )
    typed("create", "all", *rights.split(), "--certificate", "cam.internal", "--expires", "90d")

    principal = known(path, "all")
    assert principal.tasks == ("a", "b-*")
    assert principal.routes == ("a/prod",)
    assert (principal.requests_per_s, principal.rows_per_s, principal.weight) == (5, 20.5, 2)
    assert principal.certificates == ("cam.internal",)
    expires = principal.tokens[0].expires
    assert expires is not None
    assert abs(expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=10)


def test_the_name_alone_adds_a_token_to_a_principal(typed: Type, path: Path) -> None:
    first = typed("create", "app", "--scope", "infer").stdout.strip()
    second = typed("create", "app").stdout.strip()

    assert fits(first, path, "app")
    assert fits(second, path, "app")
    assert known(path, "app").scopes == (Scope.INFER,)


def test_a_token_may_go_to_a_file_that_its_owner_alone_reads(typed: Type, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "app.token"
    result = typed("create", "app", "--scope", "infer", "--out", str(out))

    text = out.read_text().strip()
    assert fits(text, path, "app")
    assert result.stdout == ""
    assert text not in result.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(Conflict, match="add --overwrite"):
        typed("rotate", "app", "--out", str(out))
    assert len(known(path, "app").tokens) == 1  # nothing was issued that nobody would have
    typed("rotate", "app", "--out", str(out), "--overwrite")
    assert fits(out.read_text().strip(), path, "app")


def test_json_has_the_token_once_and_lists_have_neither_it_nor_its_hash(typed: Type, path: Path) -> None:
    issued = document(typed, "create", "app", "--scope", "infer", "--expires", "1h")
    listed = typed("list", "--json").stdout

    assert fits(issued["token"], path, "app")
    assert (issued["principal"], issued["replaced"]) == ("app", [])
    (principal,) = json.loads(listed)
    assert principal["scopes"] == ["infer"]
    assert principal["tokens"][0] | {"created": ""} == {
        "id": issued["id"],
        "created": "",
        "expires": issued["expires"],
        "state": "active",
    }
    assert known(path, "app").tokens[0].sha256 not in listed
    assert issued["token"] not in listed


def test_a_principal_may_show_a_certificate_alone(typed: Type, path: Path) -> None:
    result = typed("create", "cam", "--scope", "infer", "--certificate", "cam.internal", "--no-token")

    assert result.stdout == ""
    assert known(path, "cam").tokens == ()
    assert "certificate cam.internal" in typed("list").stdout
    for words, said in (
        (("--no-token",), "add --certificate NAME"),
        (("--no-token", "--certificate", "c", "--expires", "1d"), "leave out --expires or --no-token"),
    ):
        with pytest.raises(InvalidInput, match=said):
            typed("create", "other", "--scope", "infer", *words)


# Rotate and revoke


def test_rotating_ends_the_tokens_before_after_the_overlap_and_keeps_rights_and_lifetime(
    typed: Type, path: Path
) -> None:
    typed("create", "app", "--scope", "infer", "--expires", "30d")
    typed("create", "app", "--expires", "1h")
    result = typed("rotate", "app", "--overlap", "7d")

    first, second, third = known(path, "app").tokens
    assert fits(result.stdout.strip(), path, "app")
    assert first.expires == third.created + timedelta(days=7)
    assert second.expires == second.created + timedelta(hours=1)  # an overlap makes none longer
    assert third.expires is not None
    assert known(path, "app").scopes == (Scope.INFER,)
    assert f"token {first.id} before it ends" in result.stderr


def test_rotating_one_token_leaves_the_others(typed: Type, path: Path) -> None:
    one = document(typed, "create", "app", "--scope", "infer")["id"]
    two = document(typed, "create", "app")["id"]
    rotated = document(typed, "rotate", one, "--overlap", "0s")

    assert [token["id"] for token in rotated["replaced"]] == [one]
    (principal,) = document(typed, "list")
    states = {token["id"]: token["state"] for token in principal["tokens"]}
    assert states == {one: "expired", two: "active", rotated["id"]: "active"}


def test_revoking_ends_one_token_or_all_that_a_principal_can_show(typed: Type, path: Path) -> None:
    token = document(typed, "create", "app", "--scope", "infer", "--certificate", "app.internal")
    other = document(typed, "create", "app")["id"]

    assert (
        typed("revoke", token["token"]).stdout == f"app: token {token['id']} revoked\n"
    )  # by the whole token
    assert typed("revoke", "app").stdout == f"app: token {other}, certificate app.internal revoked\n"
    assert known(path, "app").certificates == ()
    assert all(stored.revoked for stored in known(path, "app").tokens)
    assert typed("revoke", "app").stdout == "app: nothing revoked\n"
    assert document(typed, "revoke", "app") == {"principal": "app", "tokens": [], "certificates": []}
    with pytest.raises(
        InvalidInput, match="no token of 'app' counts any more; issue one: corolla tokens create app"
    ):
        typed("rotate", "app")


@pytest.mark.parametrize("shown", ["Bearer {}", "authorization: Bearer {}", '"{}"', " {}\n", "token={},"])
def test_a_leaked_token_is_revoked_as_it_was_found(typed: Type, path: Path, shown: str) -> None:
    token = document(typed, "create", "app", "--scope", "infer")
    assert f"token {token['id']} revoked" in typed("revoke", shown.format(token["token"])).stdout


@pytest.mark.parametrize("words", [("revoke",), ("rotate",), ("create",)])
@pytest.mark.parametrize(
    "shown", ["cor_aaaaaaaa_s3cr3t", "Bearer cor_aaaaaaaa_s3cr3t", "cor_odd_s3cr3t", "COR_s3cr3t"]
)
def test_what_may_be_a_secret_is_not_repeated(typed: Type, words: tuple[str, ...], shown: str) -> None:
    typed("create", "app", "--scope", "infer")
    with pytest.raises(CorollaError) as caught:
        typed(*words, shown)
    assert "s3cr3t" not in str(caught.value)


def test_a_name_that_cannot_be_one_is_not_repeated(typed: Type) -> None:
    with pytest.raises(InvalidInput) as caught:
        typed("create", "Bearer cor_aaaaaaaa_s3cr3t", "--scope", "infer")
    assert "s3cr3t" not in str(caught.value)


def test_a_list_shows_every_principal_with_its_rights_and_the_state_of_its_tokens(typed: Type) -> None:
    assert "no principal yet" not in typed("create", "app", "--scope", "infer", "--rows-per-s", "9").stdout
    typed("create", "ops", "--scope", "admin", "--task", "birds", "--weight", "3")
    typed("revoke", "ops")

    lines = typed("list").stdout.splitlines()
    assert lines[0].split()[:6] == ["principal", "scopes", "tasks", "routes", "limits", "token"]
    assert "app        infer   all    all     9 rows/s" in lines[1]
    assert lines[2].endswith("revoked")
    assert "weight 3" in lines[2]


# What it refuses


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("create app", NotFound, "scope: there is no principal 'app' yet, and a new one needs a scope; add"),
        ("create ther", NotFound, "did you mean there?"),
        ("create there --scope admin", Conflict, "'there' is a principal already, which may do infer; give"),
        ("create a/b --scope infer", InvalidInput, "name: 'a/b' is not a name; use letters"),
        (
            "create anonymous --scope infer",
            InvalidInput,
            "'anonymous' is the name of callers without a token",
        ),
        ("create app --scope infer --task ../x", InvalidInput, "task: '../x' is not a task; write a task's"),
        ("create app --scope infer --route a/b/c", InvalidInput, "route: 'a/b/c' is not a route"),
        ("create app --scope infer --rows-per-s 0", InvalidInput, "rows_per_s: input should be greater"),
        ("create app --scope infer --rows-per-s nan", InvalidInput, "rows_per_s: input should be a finite"),
        ("create app --scope infer --weight -1", InvalidInput, "weight: input should be greater"),
        ("create app --scope infer --expires 9e9d", InvalidInput, "expires: the end is beyond all calendars"),
        ("create app --scope infer --out none/x", InvalidInput, "out: none is not a folder; make it first"),
        ("revoke nobody", NotFound, "there is neither a principal nor a token 'nobody'; look at"),
        ("rotate thera", NotFound, "did you mean there?"),
    ],
)
def test_a_mistake_is_named_with_its_remedy_and_changes_nothing(
    typed: Type, path: Path, words: str, kind: type[CorollaError], said: str
) -> None:
    typed("create", "there", "--scope", "infer")
    before = path.read_bytes()

    with pytest.raises(kind) as caught:
        typed(*words.split())
    assert said in str(caught.value)
    assert path.read_bytes() == before


def test_a_token_in_the_place_of_a_name_is_refused_and_not_repeated(typed: Type, path: Path) -> None:
    text = typed("create", "app", "--scope", "infer").stdout.strip()

    with pytest.raises(InvalidInput, match="it is a token, where a name is expected") as caught:
        typed("create", text, "--scope", "infer")
    typed("revoke", "app")
    with pytest.raises(NotFound) as unknown:
        typed("revoke", f"{text[:4]}zzzzzzzz{text[12:]}")
    assert text[13:] not in str(caught.value) + str(unknown.value) + path.read_text()


@pytest.mark.parametrize("words", ["list", "revoke app", "rotate app"])
def test_a_file_that_is_not_there_is_made_by_create_alone(typed: Type, path: Path, words: str) -> None:
    with pytest.raises(NotFound, match="does not exist; make it: corolla tokens create NAME --scope infer"):
        typed(*words.split())
    assert not path.exists()


def test_a_folder_that_is_not_there_is_named(path: Path) -> None:
    words = ["create", "app", "--scope", "infer", "--principals", str(path / "p.json")]
    result = CliRunner().invoke(group, words, standalone_mode=False)

    assert str(result.exception) == f"principals: {path} is not a folder that can be opened; make it first"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[[", "is not JSON (line 1)"),
        ('{"principals": [{"name": "a"}]}', "principals.0.scopes: field required"),
        ('{"principals": [], "secret": "s3cr3t"}', "secret: extra inputs are not permitted"),
        ('{"format_version": 2}', "format_version: input should be 1"),
    ],
)
def test_a_damaged_file_is_refused_and_stays(typed: Type, path: Path, text: str, said: str) -> None:
    path.write_text(text)

    with pytest.raises(InvalidInput) as caught:
        typed("create", "app", "--scope", "infer")
    assert said in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert path.read_text() == text


def test_no_file_is_guessed() -> None:
    result = CliRunner().invoke(group, ["list"], env={"COROLLA_PRINCIPALS": ""}, standalone_mode=False)

    assert (
        str(result.exception)
        == "principals: no file is named; add --principals FILE, or set COROLLA_PRINCIPALS"
    )


def test_a_file_keeps_its_readers_when_it_is_written_again(typed: Type, path: Path) -> None:
    typed("create", "app", "--scope", "infer")
    path.chmod(0o640)  # as for a server that runs as another user
    typed("create", "app")

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_others_may_write_is_refused(typed: Type, path: Path) -> None:
    typed("create", "app", "--scope", "infer")
    path.chmod(0o666)

    with pytest.raises(InvalidInput, match=r"others may write .* chmod go-w"):
        typed("list")


# Around them


def test_no_flag_takes_a_token_and_an_error_about_one_does_not_repeat_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = "w0rthKeepingSecretAbcdefghijklmnopqrstuvwx-_"
    for flag in (f"--token=cor_abcdefgh_{secret}", f"--token-file=cor_abcdefgh_{secret}"):
        assert command.run(["adapters", "resident", flag]) == 2
    said = capsys.readouterr()
    assert "No such option '--token'." in said.err
    assert "'--token-file'?" in said.err
    assert "--token-file: it is a token, where the path of a file with one is expected" in said.err
    assert secret not in said.err + said.out
