"""Who gets in: roles on every route, sessions, origins, sizes, paths, and what never reaches the journal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.page.access import RULES, Role, Rule
from inspector.page.app import HANDLERS, Page
from inspector.page.serve import check_exposure
from inspector.page.sessions import COOKIE, Brake, Sessions
from inspector.page.users import Users, fits
from tests.page.page_kit import HTML, OWN, PASSWORD, USERS, Journal, browsing, log_in, make_page, page_settings

PARAMETERS = {"file:path": "page.css", "key": "000001-000000001", "number": "1", "token": "none"}


def path_of(rule: Rule) -> str:
    """An address of this route."""
    return re.sub(r"\{([^}]+)\}", lambda found: PARAMETERS[found[1]], rule.path)


def ask(client: TestClient, rule: Rule, headers: dict[str, str] | None = None) -> int:
    """The status of this route; a stream is not read."""
    if rule.name == "live":
        with pytest.raises(_Begun) as begun, _first_status(client):
            client.get(path_of(rule), headers=headers or {})
        return begun.value.status
    if rule.method == "POST":
        return client.post(path_of(rule), headers={**OWN, **(headers or {})}).status_code
    return client.get(path_of(rule), headers=headers or {}).status_code


class _Begun(Exception):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


class _first_status:
    """The test client waits for the end of a stream that has none: the status is taken where it begins."""

    def __init__(self, client: TestClient) -> None:
        self._transport = client._transport
        self._app = self._transport.app  # type: ignore[attr-defined]

    def __enter__(self) -> None:
        async def app(scope, receive, send):  # type: ignore[no-untyped-def]
            async def first(message):  # type: ignore[no-untyped-def]
                raise _Begun(message["status"])

            await self._app(scope, receive, first)

        self._transport.app = app  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self._transport.app = self._app  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [None, *USERS])
def test_every_route_admits_whom_the_table_says_and_nobody_else(guest: TestClient, name: str | None) -> None:
    """Without a login 401 or the way to the login; with the wrong role 403; else whatever the handler says."""
    if name is not None:
        log_in(guest, name)
    for rule in RULES:
        status = ask(guest, rule)
        if rule.name == "logout" and name is not None:
            log_in(guest, name)
        if rule.roles is None:
            assert status not in {401, 500}, rule
        elif name is None:
            assert status == 401, rule
        elif USERS[name] not in rule.roles:
            assert status == 403, rule
        else:
            assert status not in {401, 403, 405, 421, 500}, (rule, status)


def test_the_roles_are_those_that_the_manual_names() -> None:
    """Operators never judge, set-up never judges, and there is no route without a handler."""
    admitted = {role: {rule.name for rule in RULES if rule.roles and role in rule.roles} for role in Role}
    judging = {"judge", "judge_picture", "decide"}
    assert not judging & admitted[Role.OPERATOR] and not judging & admitted[Role.SETUP]
    assert judging <= admitted[Role.QUALITY]
    assert "acknowledge" in admitted[Role.OPERATOR]
    assert set(HANDLERS) == {rule.name for rule in RULES}
    public = {rule.name for rule in RULES if rule.roles is None}
    assert public == {"static", "health", "login_form", "login", "logout"}


def test_a_page_sends_to_the_login_and_back(guest: TestClient) -> None:
    """A browser is redirected; the login leads back to where it was, and never to another host."""
    answer = guest.get("/rejects?verdict=FAIL", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?back=%2Frejects%3Fverdict%3DFAIL")
    for back, lands in (
        ("/rejects?verdict=FAIL", "/rejects?verdict=FAIL"),
        ("https://evil.example/", "/watch"),
        ("//evil.example/", "/watch"),
        ("/\\evil.example", "/watch"),
        ("javascript:alert(1)", "/watch"),
    ):
        form = {"name": "olga", "password": PASSWORD, "back": back}
        assert guest.post("/login", data=form, headers=OWN).headers["location"] == lands


POSTS = [rule for rule in RULES if rule.method == "POST"]


@pytest.mark.parametrize("rule", POSTS, ids=lambda rule: rule.name)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost@evil.example"},
        {"Origin": "http://localhost:81"},
        {"Origin": "ftp://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_a_post_from_elsewhere_is_refused(client: TestClient, rule: Rule, headers: dict[str, str]) -> None:
    """Only our own page may send: by its Origin, or by what the browser says where it sends none."""
    assert client.post(path_of(rule), headers=headers).status_code == 403


@pytest.mark.parametrize("rule", POSTS, ids=lambda rule: rule.name)
def test_a_body_that_is_too_long_is_refused(client: TestClient, rule: Rule) -> None:
    """By what it says it is, and by what it turns out to be."""
    form = {**OWN, "Content-Type": "application/x-www-form-urlencoded"}
    longer = b"a=" + b"b" * rule.body_bytes
    assert client.post(path_of(rule), headers=form, content=longer).status_code == 413
    assert client.post(path_of(rule), headers=form, content=iter([longer])).status_code == 413
    short = client.post(path_of(rule), headers={**form, "Content-Length": "99999999"}, content=b"a=b")
    assert short.status_code == 413


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"\xff\xfe", 400),
        ("application/x-www-form-urlencoded", b"a=%ff", 400),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(99)), 400),
    ],
)
def test_what_is_no_form_is_refused(client: TestClient, kind: str, body: bytes, status: int) -> None:
    """A refusal in short words, never a fault."""
    assert client.post("/login", headers={**OWN, "Content-Type": kind}, content=body).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2f..%2fconfig.toml",
        "/static/%2e%2e/users.py",
        "/static//etc/passwd",
        "/static/vendor/../../app.py",
        "/picture/../../ledger.db",
        "/picture/..%2f..%2fledger.db",
        "/picture/%2fetc%2fpasswd",
        "/picture/000001-000000001.png%00",
        "/picture/1-1/../../x",
        "/part/..%2f1",
        "/judge/..%2f..%2fledger.db/picture",
        "/alarms/..%2f1",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    """Files are found by name in a list, pictures by number: nothing is looked up by a path from outside."""
    answer = client.get(path)
    assert answer.status_code in {303, 400, 404, 405}, answer.text[:200]
    assert b"root:" not in answer.content and b"import" not in answer.content and b"SQLite" not in answer.content


def test_every_page_runs_without_inline_script_or_style(client: TestClient) -> None:
    """The content security policy forbids them, so a page that had some would not work; all pages carry the policy."""
    for rule in RULES:
        if rule.method != "GET" or rule.name == "live":
            continue
        answer = client.get(path_of(rule))
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "text/html" not in answer.headers.get("content-type", ""):
            continue
        assert not re.search(r"<script(?![^>]*\bsrc=)", answer.text), rule
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|javascript:", answer.text), rule
        hosts = re.findall(r"(?:src|href|action|hx-[a-z]+)=\"(?:https?:)?//[^\"]*", answer.text)
        assert not hosts, (rule, hosts)


# -- login and sessions ------------------------------------------------------------------------------------------------


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(guest: TestClient) -> None:
    """HttpOnly, SameSite=Strict, with an age."""
    answer = guest.post("/login", data={"name": "olga", "password": PASSWORD}, headers=OWN)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "max-age=43200" in cookie
    assert guest.get("/watch").status_code == 200
    guest.post("/logout", headers=OWN)
    assert guest.get("/watch").status_code == 401


def test_a_session_ends_with_the_user_the_role_or_the_password(guest: TestClient, with_users: Page) -> None:
    """The file is asked at every request: nobody who was removed looks on."""
    for change in (
        lambda: with_users.users.add("olga", Role.QUALITY, PASSWORD),
        lambda: with_users.users.add("olga", Role.QUALITY, "another password"),
        lambda: with_users.users.remove("olga"),
    ):
        user = with_users.users.get("olga")
        assert user is not None
        guest.cookies.set(COOKIE, with_users.sessions.issue(user))
        assert guest.get("/watch").status_code == 200
        change()
        assert guest.get("/watch").status_code == 401


def test_forged_and_old_cookies_are_nobodys(tmp_path: Path, users_file: Path) -> None:
    """A changed letter, another key, too old, from the future, or nonsense."""
    clock = PushedClock()
    users = Users(users_file.parent)
    sessions = Sessions(users, b"k" * 32, clock, hours=1)
    olga = users.get("olga")
    assert olga is not None
    good = sessions.issue(olga)
    assert sessions.user_of(good) == olga
    assert sessions.user_of(Sessions(users, b"x" * 32, clock, hours=1).issue(olga)) is None
    for at in range(len(good) - 1):  # the last letter of base64 has two bits that say nothing
        changed = good[:at] + chr(ord(good[at]) ^ 1) + good[at + 1 :]
        assert sessions.user_of(changed) is None, changed
    for nonsense in ("", "a.b", "a:b:c.d", "é", "x" * 5000, good + "x"):
        assert sessions.user_of(nonsense) is None
    clock.push(3601 * 1_000_000_000)
    assert sessions.user_of(good) is None
    fresh = sessions.issue(olga)
    clock.step_wall(-3600 * 1_000_000_000)
    assert sessions.user_of(fresh) is None


def test_guessing_is_slowed_down(guest: TestClient) -> None:
    """After a few wrong passwords one waits, with the right one too; others are not held up by name."""
    for _ in range(5):
        answer = guest.post("/login", data={"name": "olga", "password": "wrong password"}, headers=OWN)
        assert answer.status_code == 403
    answer = guest.post("/login", data={"name": "olga", "password": PASSWORD}, headers=OWN)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


def test_the_wait_doubles_and_ends() -> None:
    """1, 2, 4 ... 60 seconds; the right password forgets; memory is bounded."""
    clock = PushedClock()
    brake = Brake(clock)
    waits = []
    for _ in range(14):
        brake.failed("a")
        waits.append(round(brake.wait_s("a")))
        clock.push(int(brake.wait_s("a") * 1e9))
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert brake.wait_s("b") == 0
    brake.passed("a")
    brake.failed("a")
    assert brake.wait_s("a") == 0
    for number in range(5000):
        brake.failed(str(number))
    assert len(brake._failures) <= 2048


def test_passwords_are_kept_as_scrypt_hashes_for_their_owner_alone(tmp_path: Path) -> None:
    """Not in the clear, salted, mode 0600; a file that others can read is refused."""
    users = Users(tmp_path / "page")
    assert users.add("anna", Role.SETUP, PASSWORD)
    assert not users.add("anna", Role.QUALITY, PASSWORD)
    users.add("ben", Role.QUALITY, PASSWORD)
    text = users.path.read_text()
    assert PASSWORD not in text and users.path.stat().st_mode & 0o777 == 0o600
    table = json.loads(text)["users"]
    assert table["anna"]["hash"] != table["ben"]["hash"]
    assert fits(users.get("anna"), PASSWORD)
    assert not fits(users.get("anna"), PASSWORD + " ")
    assert not fits(None, PASSWORD) and not fits(None, "")
    users.path.chmod(0o644)
    with pytest.raises(ConfigError, match="readable by others"):
        users.all()


@pytest.mark.parametrize("name", ["", "Anna", "../x", "a b", "-a", "a" * 33, "a:b", "ä"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    """They stand in cookies, journals and reviews."""
    with pytest.raises(ConfigError):
        Users(tmp_path).add(name, Role.SETUP, PASSWORD)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "users": {"a": {"role": "root"}}}'])
def test_a_damaged_users_file_admits_nobody(state: Path, text: str) -> None:
    """It is told, and the page is not open to everybody instead."""
    page = make_page(state)
    page.users.path.write_text(text)
    page.users.path.chmod(0o600)
    with browsing(page) as client:
        assert client.get("/watch").status_code == 400


# -- without users -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.7", "", "[::1", "@localhost"])
def test_without_users_only_this_computer_by_its_own_name(client: TestClient, host: str) -> None:
    """A name of another site that leads here brings that site's script: refused on every route."""
    assert client.get("/watch", headers={"Host": host}).status_code in {400, 421}
    assert client.get("/watch").status_code == 200


def test_without_users_nobody_else_may_come_in(page: Page) -> None:
    """Not from another address, whatever it calls us; and no other address is listened at."""
    with TestClient(page.application, base_url="http://localhost", client=("10.0.0.7", 1)) as far:
        assert far.get("/watch").status_code == 421
    settings = page_settings(page.settings.station.state_dir, page={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match="open to everybody"):
        check_exposure(settings, is_open=True)
    with pytest.raises(ConfigError, match="unencrypted"):
        check_exposure(settings, is_open=False)
    check_exposure(
        page_settings(page.settings.station.state_dir, page={"host": "0.0.0.0", "allow_plaintext": True}), is_open=False
    )


def test_no_secret_reaches_the_journal(guest: TestClient, journal: Journal, with_users: Page) -> None:
    """Neither passwords, right or wrong, nor cookies, nor hashes, nor the key."""
    guest.post("/login", data={"name": "olga", "password": "hunter2hunter2"}, headers=OWN)
    log_in(guest, "olga")
    guest.get("/judge")
    guest.get("/picture/none?password=hunter2hunter2")
    told = json.dumps(journal.lines, default=str)
    assert "login refused" in told and "refused" in told
    secret = (with_users.folder / "session.secret").read_bytes()
    user = with_users.users.get("olga")
    assert user is not None
    for hidden in (PASSWORD, "hunter2", guest.cookies[COOKIE], user.hash, secret.hex(), repr(secret)):
        assert hidden not in told
