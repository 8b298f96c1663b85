"""Blind first: nothing that is sent before the decision tells what the machine said; then the answer, kept for ever."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from inspector.frame import Verdict
from inspector.ledger.query import Filter, records
from inspector.page.app import Page
from inspector.page.judging import Pending, Table
from inspector.review.records import PartKey
from tests.page.page_kit import OWN, log_in


def token_of(text: str) -> str:
    """Of the part on the page."""
    found = re.search(r'action="/judge/([^"]+)"', text)
    assert found, text[:500]
    return found[1]


def judge(client: TestClient, token: str, opinion: str, **more: str) -> str:
    """Decide; the answer's text."""
    answer = client.post(f"/judge/{token}", data={"opinion": opinion, **more}, headers={**OWN, "HX-Request": "true"})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_nothing_tells_the_answer_before_the_decision(guest: TestClient, with_users: Page) -> None:
    """No verdict, score, part id, number, rule or size of a defect: in no page, header or picture, for every part."""
    log_in(guest, "quentin")
    seen: set[str] = set()
    for _ in range(12):
        shown = guest.get("/judge")
        token = token_of(shown.text)
        picture = guest.get(f"/judge/{token}/picture")
        assert picture.headers["content-type"] == "image/png"
        pending = with_users.table.parts[token]
        (record,) = records(with_users.ledger, Filter(epoch=pending.key.epoch, sequence=pending.key.sequence))
        answer = record.sent
        secrets = {
            *("PASS", "FAIL", "INVALID", "fail", "invalid", "stratum", "borderline"),
            *(answer.part_id, pending.key.text, f"{answer.score:.3f}", answer.hashes.engine),
            *answer.rules,
            *(f"{one.area_px:.0f} px" for one in answer.defects),
        }
        body = shown.text.partition('<div id="judge">')[2]
        told = [secret for secret in secrets if secret and secret in body]
        told += [secret for secret in secrets if secret and secret in str(shown.headers) + str(picture.headers)]
        assert not told, told
        assert "/picture/" not in body and "path" not in body
        found = with_users.parts.sources.picture(with_users.parts.sources.part(pending.key))
        assert found is not None and picture.content == found.png
        revealed = judge(guest, token, "defect" if answer.verdict is Verdict.FAIL else "good")
        assert answer.verdict.value in revealed and pending.key.text in revealed
        if answer.verdict is Verdict.FAIL:
            assert '<path class="found"' in revealed
        seen.add(pending.key.text)
    assert len(seen) == 12
    reviews = with_users.promise.room().store.reviews()
    assert {review.key.text for review in reviews} == seen
    assert all(review.blind and review.reviewer == "quentin" for review in reviews)


def test_a_part_is_judged_once_a_person_and_verdicts_are_only_added(guest: TestClient, with_users: Page) -> None:
    """The same token twice adds nothing; a token of somebody else shows and takes nothing."""
    log_in(guest, "quentin")
    token = token_of(guest.get("/judge").text)
    with_users.table.parts["theirs"] = Pending(PartKey("test", 1, 1), "0" * 64, 256, 256, "other", 0, 1)
    assert guest.get("/judge/theirs/picture").status_code == 404
    assert guest.post("/judge/theirs", data={"opinion": "good"}, headers=OWN).headers["location"] == "/judge"
    judge(guest, token, "cannot_tell", note="dirt on the glass")
    assert guest.post(f"/judge/{token}", data={"opinion": "good"}, headers=OWN).headers["location"] == "/judge"
    (review,) = with_users.promise.room().store.reviews()
    assert (review.opinion.value, review.note) == ("cannot_tell", "dirt on the glass")
    table = guest.get("/learn/reviews.csv").text
    assert "dirt on the glass" in table and "quentin" in table


@pytest.mark.parametrize("opinion", ["", "maybe", "DEFECT"])
def test_only_the_three_opinions_are_taken(client: TestClient, page: Page, opinion: str) -> None:
    """Anything else is told and nothing is stored; the part stays on the table."""
    token = token_of(client.get("/judge").text)
    assert client.post(f"/judge/{token}", data={"opinion": opinion}, headers=OWN).status_code == 400
    assert page.promise.room().store.reviews() == []
    judge(client, token, "good")
    assert len(page.promise.room().store.reviews()) == 1


def canvas(height: int, width: int) -> str:
    """What a browser makes of a canvas with one stroke."""
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[10:20, 30:50] = (255, 143, 31, 255)
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()


def test_a_brushed_mask_is_kept_with_the_verdict(client: TestClient, page: Page) -> None:
    """As a grey mask of the picture's size, and shown beside the machine's."""
    shown = client.get("/judge").text
    size = page.table.parts[token_of(shown)]
    revealed = judge(client, token_of(shown), "defect", mask=canvas(size.height_px, size.width_px))
    assert '<path class="own"' in revealed
    store = page.promise.room().store
    (review,) = store.reviews()
    assert review.mask_sha256 is not None
    mask = cv2.imdecode(np.frombuffer(store.blob(review.mask_sha256), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (size.height_px, size.width_px)
    assert (mask > 0).sum() == 200


@pytest.mark.parametrize(
    "mask",
    ["x", "data:image/png;base64,###", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,AAAA", canvas(8, 8)],
    ids=["words", "no base64", "svg", "no png", "another size"],
)
def test_what_is_no_mask_of_this_picture_is_refused(client: TestClient, page: Page, mask: str) -> None:
    """With the verdict: half of what somebody meant is not stored."""
    token = token_of(client.get("/judge").text)
    answer = client.post(f"/judge/{token}", data={"opinion": "defect", "mask": mask}, headers=OWN)
    assert answer.status_code == 400
    assert page.promise.room().store.reviews() == []


def test_verdicts_change_what_is_told_of_the_promise(client: TestClient, page: Page) -> None:
    """The learn page counts them at once, by the machine's answer, with bounds."""
    assert "Nothing was judged yet" in client.get("/learn").text
    before = page.promise.fresh().standing
    for _ in range(6):
        token = token_of(client.get("/judge").text)
        pending = page.table.parts[token]
        (record,) = records(page.ledger, Filter(epoch=pending.key.epoch, sequence=pending.key.sequence))
        judge(client, token, "defect" if record.settled.truth else "good")
    after = page.promise.fresh().standing
    assert before is not None and after is not None
    assert before.defective == 0 < after.defective
    text = client.get("/learn?reference=truth").text
    assert "6 judgements of 6 parts" in text and "machine" in text


def test_a_promise_that_nobody_made_is_said_plainly_with_what_makes_one(client: TestClient, page: Page) -> None:
    """No bound of 100 % by no parts."""
    standing = page.promise.fresh().standing
    assert standing is not None and standing.promise is None and standing.defective == 0
    text = client.get("/watch").text
    assert "none made" in text and "inspector calibrate threshold" in text
    assert "escape rate at most" not in text and "judged no defective part" not in text


def test_the_table_is_bounded() -> None:
    """Parts that somebody looked at and left do not add up."""
    table = Table()
    tokens = [table.put(Pending(PartKey("t", 1, n), "", 1, 1, "a", 0, 0)) for n in range(1000)]
    assert len(table.parts) == 256
    assert table.of(tokens[-1], "a") is not None and table.of(tokens[0], "a") is None


def test_cells_that_a_spreadsheet_would_run_are_plain(client: TestClient) -> None:
    """A note that begins like a formula is text in the table."""
    judge(client, token_of(client.get("/judge").text), "good", note='=HYPERLINK("http://evil.example")')
    assert "\"'=HYPERLINK" in client.get("/learn/reviews.csv").text
