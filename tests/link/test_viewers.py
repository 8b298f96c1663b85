"""The viewers' socket."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from link_help import an_answer

from inspector.clock import SystemClock
from inspector.errors import ConfigError, LinkError
from inspector.frame import BoolMap, Evidence, Grey, Settled
from inspector.link import viewers, wire
from inspector.link.viewers import ViewerFeed, ViewersLink

CLOCK = SystemClock()
_shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def _settled(mask: BoolMap | None = None, image: Grey | None = None) -> Settled:
    return Settled(an_answer(1, now_ns=10**10), Evidence(image, mask))


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.bool_, _shapes), hnp.arrays(np.uint8, _shapes))
def test_mask_and_image_come_back_bit_for_bit(mask: BoolMap, image: Grey) -> None:
    """A publication is lossless: answer, mask and image come back as they were."""
    frames = viewers.encode(_settled(mask, image), 7, now_ns=0, images=True)
    assert (frames[4][24], frames[5][24]) == (1, 8), "bits of a pixel, as the PNG headers say"
    viewed = viewers.decode(frames)
    assert viewed.mask is not None and viewed.image is not None
    assert np.array_equal(viewed.mask, mask) and viewed.mask.dtype == np.bool_
    assert np.array_equal(viewed.image, image)
    assert viewed.message.answer == _settled().answer
    assert viewed.published == 7


def test_images_are_sent_only_where_asked_for() -> None:
    """Without images a publication has the mask alone; a part without evidence has neither."""
    some = np.ones((4, 4), np.uint8)
    viewed = viewers.decode(viewers.encode(_settled(some > 0, some), 1, now_ns=0, images=False))
    assert viewed.image is None and viewed.mask is not None
    bare = viewers.decode(viewers.encode(_settled(), 1, now_ns=0, images=True))
    assert (bare.image, bare.mask) == (None, None)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mutated_publication_raises_link_errors_only(data: st.DataObject) -> None:
    """A damaged publication is read or refused with a LinkError, never anything else."""
    frames = viewers.encode(_settled(np.eye(9, dtype=np.bool_), np.zeros((9, 9), np.uint8)), 1, now_ns=0, images=True)
    index = data.draw(st.integers(0, 5))
    at = data.draw(st.integers(0, len(frames[index]) - 1))
    frames[index] = frames[index][:at] + data.draw(st.binary(max_size=8)) + frames[index][at + 1 :]
    frames = frames[: data.draw(st.integers(4, 6))]
    try:
        viewers.decode(frames)
    except LinkError as error:
        assert "\n" not in str(error)


def test_huge_claimed_image_is_refused() -> None:
    """An image that claims more pixels than a viewer would hold is refused before it is decoded."""
    frames = viewers.encode(_settled(np.eye(9, dtype=np.bool_)), 1, now_ns=0)
    frames[4] = frames[4][:16] + (60_000).to_bytes(4, "big") * 2 + frames[4][24:]
    with pytest.raises(LinkError, match="64 Mpx"):
        viewers.decode(frames)


def test_slow_viewer_loses_parts_and_counts_them_while_nobody_waits() -> None:
    """A viewer that does not read loses parts, knows how many, and the daemon publishes on."""
    link = ViewersLink("tcp://127.0.0.1:*", CLOCK, images=True, hwm=4)
    link.open()
    feed = ViewerFeed(link.endpoint, hwm=4)
    image = np.random.default_rng(1).integers(0, 256, (256, 256), np.uint8)
    try:
        while feed.next(0.02) is None:
            link.publish(_settled(image > 250, image))
        for _ in range(300):
            link.publish(_settled(image > 250, image))
        while feed.next(0.2) is not None:
            pass
        link.publish(_settled())
        last = feed.next(5)
        assert last is not None
        assert last.published == link.statistics().published
        assert feed.lost > 0
        assert feed.malformed == link.statistics().failed == 0
        assert feed.received + feed.lost <= last.published
    finally:
        feed.close()
        link.close()


def test_what_cannot_be_shown_is_counted() -> None:
    """A part whose picture cannot be written is counted as failed; the viewers' thread goes on."""
    link = ViewersLink("tcp://127.0.0.1:*", CLOCK, images=True)
    link.open()
    try:
        link.publish(_settled(image=np.zeros((0, 3), np.uint8)))
        link.publish(_settled())
        assert (link.statistics().published, link.statistics().failed) == (2, 1)
    finally:
        link.close()


def test_exposure_and_port_are_checked() -> None:
    """The viewers' socket refuses plaintext that others can reach, and says when its port is in use."""
    with pytest.raises(ConfigError, match="plaintext"):
        ViewersLink("tcp://0.0.0.0:5571", CLOCK)
    link = ViewersLink("tcp://127.0.0.1:*", CLOCK)
    link.open()
    try:
        with pytest.raises(LinkError, match="port in use"):
            ViewersLink(link.endpoint, CLOCK).open()
    finally:
        link.close()


def test_publication_carries_the_wire_header() -> None:
    """A viewer reads the same header and detail as the controller."""
    settled = _settled()
    frames = viewers.encode(settled, 1, now_ns=settled.answer.due_ns - 5_000_000, durable=3)
    assert frames[1:3] == wire.pack_answer(settled.answer, left_us=5000, durable=3)
