"""The tables of config.toml: their keys, defaults and what is allowed. Each is documented in config.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
SLOWEST_HZ, FASTEST_HZ = 1e-6, 1e9


def _rate(value: float) -> float:
    """A schedule counts in whole nanoseconds: at 1e-320 Hz its times would have no number."""
    if value != 0 and not SLOWEST_HZ <= value <= FASTEST_HZ:
        raise ValueError(f"allowed: 0, or {SLOWEST_HZ:g} to {FASTEST_HZ:g}")
    return value


Rate = Annotated[float, AfterValidator(_rate)]
Probability = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0, le=1 << 53)]
Register = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
Window = Annotated[tuple[int, ...], Field(min_length=4, max_length=4)]


class Section(BaseModel):
    """A table of config.toml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StationSettings(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = "line-1"
    state_dir: Path = Path("state")
    """Ledger, images and the daemon's own socket live here."""


class CameraSettings(Section):
    kind: Literal["synthetic", "folder", "genicam"] = "synthetic"
    rate_hz: Rate = 10.0
    """Parts per second for synthetic and folder; 0 = as fast as possible."""
    views: Annotated[int, Field(ge=1, le=16)] = 1
    """Frames per part; the worst view decides, a missing one makes the part INVALID."""
    view_gap_ms: NotNegative = 0.0
    """The views of a part follow one another at most so long; a longer pause begins the next part. 0 = the frame ids
    count the views: for recorded and rendered frames only."""
    seed: Whole = 1
    distinct: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Synthetic: cycle through so many rendered parts (0 = render each part anew)."""
    folder: Path = Path("images")
    layout: Literal["auto", "folder", "kolektor-sdd", "magnetic-tile", "neu-seg"] = "auto"
    loop: bool = False
    producers: tuple[Path, ...] = ()
    """GenTL producers (.cti); empty = the simulator in the genicam wheel."""
    serial: str = ""
    model: str = ""
    user_name: str = ""
    features: tuple[tuple[str, bool | Register | float | str], ...] = ()
    """SFNC features, written in this order and read back."""
    buffers: Annotated[int, Field(ge=2, le=1024)] = 32
    frame_id_bits: Literal[16, 32, 64] = 64


class PartSettings(Section):
    calibration: Path | None = None
    """Calibration file of this station; none = the whole frame is the part, nothing is located."""


class EngineSettings(Section):
    bundle: Path = Path("engines/commutator")
    backend: Literal["auto", "openvino", "onnxruntime", "tensorrt"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """0 = all cores this process may use."""
    pinning: bool = False
    keep_alive_s: NotNegative = 2.0
    """Run the engine on a blank image after so long without a part; 0 = never."""
    max_verdict_flips: Whole = 0
    """build-engine installs no plan that sorts more of the proof's images otherwise than FP32."""
    min_mask_iou: Probability = 0.98
    """Of a plan's masks with those of FP32, over all images of the proof."""
    max_iou_loss: Probability = 0.005
    """Of set IoU with the true masks against FP32, where the proof's images have masks."""


class TimingSettings(Section):
    gate_ms: Positive = 150.0
    """From the frame to the controller's gate."""
    slack_ms: Positive = 10.0
    """Kept back for the answer's way: due = taken + gate - slack."""
    commit_margin_ms: NotNegative = 2.0
    """A PASS or FAIL whose row is not committed so long before its due time goes out as INVALID UNRECORDED."""
    queue: Annotated[int, Field(ge=1, le=256)] = 4
    """Parts that may wait for the engine; one more displaces the oldest (DROPPED)."""
    wake_us: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """No core sleeps so deeply that it wakes later than this; 0 = none sleeps at all. None = as the kernel likes."""

    @model_validator(mode="after")
    def _gate_holds_the_rest(self) -> TimingSettings:
        if self.slack_ms + self.commit_margin_ms >= self.gate_ms:
            raise ValueError("gate_ms must be larger than slack_ms + commit_margin_ms")
        return self


class ZoneSettings(Section):
    name: Annotated[str, Field(min_length=1, max_length=32)]
    polygon: tuple[tuple[float, float], ...] = ()
    """Corner points in map pixels (0..255); at least three."""
    rectangle: Window | None = None
    """x, y, width, height in map pixels."""
    ignore: bool = False
    limits: dict[str, float] = {}
    """Limits that replace the station's inside this zone."""
    review: dict[str, float] = {}


class DecisionSettings(Section):
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Score from which a pixel counts as defect; none = the engine bundle's operating point."""
    limits: dict[str, float] = {}
    """Limits by name, see docs/decision.md; none = the engine bundle's operating point."""
    review: dict[str, float] = {}
    """Lower limits of the review band: FAIL with the review flag between them and the limits."""
    zones: tuple[ZoneSettings, ...] = ()


class AlarmSettings(Section):
    fails: Whole = 5
    """Alarm when so many ..."""
    among: Annotated[int, Field(ge=1, le=10000)] = 10
    """... of so many consecutive parts failed (0 fails = off)."""
    no_reject_run: Whole = 0
    """Alarm after so many parts without a reject (0 = off)."""


class LinkSettings(Section):
    endpoint: str = "tcp://127.0.0.1:5570"
    viewers: str = "tcp://127.0.0.1:5571"
    """Socket for viewers; empty = none."""
    announcements: bool = False
    """True: the controller announces each part, and that announcement is the trigger."""
    frame_earliest_ms: Annotated[float, Field(ge=-10_000, le=10_000)] = -5.0
    """A frame comes at the earliest so long after its announcement; negative: before it, and waits so long for it."""
    frame_latest_ms: Annotated[float, Field(ge=-10_000, le=10_000)] = 30.0
    """A frame comes at the latest so long after its announcement. Parts that are announced closer together than
    latest - earliest cannot be told apart and are INVALID."""
    heartbeat_ms: Positive = 200.0
    resend_ms: Positive = 50.0
    priority: Annotated[int, Field(ge=0, le=40)] = 0
    """SCHED_FIFO priority that the answering thread takes for itself; 0 = none. Needs the right to it."""
    keys_dir: Path | None = None
    """CURVE keys; none = plaintext, allowed on loopback only."""
    allow_plaintext: bool = False
    max_message_bytes: Annotated[int, Field(ge=512, le=16 << 20)] = 65536
    viewer_images: bool = True

    @model_validator(mode="after")
    def _frames_come_in_a_span(self) -> LinkSettings:
        if self.frame_earliest_ms >= self.frame_latest_ms:
            raise ValueError("frame_earliest_ms must be less than frame_latest_ms")
        return self


class LedgerSettings(Section):
    sync: Literal["normal", "full"] = "normal"
    sync_interval_ms: Positive = 50.0
    ballast_bytes: Whole = 4 << 20
    """Freed when the disk is full, so that the line can stop in order."""
    keep_days: NotNegative = 0.0
    """Rows older than this leave the ledger; 0 = they stay for ever. Not shorter than store.keep_days."""
    keep_copy: bool = True
    """They leave into files below retired/ of the state directory, to be moved away; false: they are gone."""


class StoreSettings(Section):
    save: tuple[Literal["PASS", "FAIL", "INVALID"], ...] = ("FAIL", "INVALID")
    every_pass: Whole = 100
    """Save every n-th PASS as well (0 = none)."""
    pass_from_score: Probability = 0.5
    """Save every PASS whose highest score reaches this (0 = none), so that what nearly failed can be judged."""
    quota_mb: Positive = 2048.0
    keep_days: Positive = 90.0
    min_free_mb: NotNegative = 512.0


class ShadowSettings(Section):
    """A second engine that judges in idle time, see docs/operations.md."""

    bundle: Path | None = None
    """Engine bundle of the shadow; none = no shadow."""
    backend: Literal["openvino", "onnxruntime"] = "openvino"
    """A CPU engine: what runs on a GPU cannot be stopped when a part comes."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    keep: Annotated[int, Field(ge=1, le=64)] = 4
    """Answered parts that may wait for idle time; one more displaces the oldest, which is counted as skipped."""
    flips: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Flips that are kept with their pictures; the counts stay for ever."""


class PageSettings(Section):
    """The web page beside the line, a process of its own, see docs/page.md."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9571
    """0 = any free one; it is told at the start."""
    state_dir: Path | None = None
    """Users, session key, acknowledgements, reviews and the page's own counts; none = the station's."""
    certificate: Path | None = None
    """TLS: the certificate chain in PEM; goes with ``key``."""
    key: Path | None = None
    allow_plaintext: bool = False
    """Other addresses than loopback without TLS, for a proxy in front that adds it."""
    viewer_key: Path | None = None
    """This page's secret CURVE key file, where the viewers' socket asks for one; goes with ``server_key``."""
    server_key: Path | None = None
    session_hours: Annotated[float, Field(gt=0, le=8760)] = 12.0
    stale_s: Positive = 10.0
    """A picture older than this is shown grey, and the page says how old it is."""
    updates_hz: Annotated[float, Field(gt=0, le=60)] = 20.0
    """Pictures a second on a live page at most; of faster parts the newest is shown."""
    viewers_max: Annotated[int, Field(ge=1, le=256)] = 32
    """Live pages open at once."""
    requests_hz: Positive = 20.0
    """Pages and questions a second, of all browsers together; pictures ten times as many. What is more for longer than
    five seconds waits up to a second, so that a flood costs the line little."""

    @model_validator(mode="after")
    def _pairs(self) -> PageSettings:
        for one, other in (("certificate", "key"), ("viewer_key", "server_key")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"page.{one} goes with page.{other}")
        return self


class HealthSettings(Section):
    metrics: str = "127.0.0.1:9570"
    """Address of the Prometheus endpoint; empty = none."""
    group: bool = False
    """The daemon's group may ask for the status too: for a page that runs as another user."""
    stale_ms: Positive = 2000.0
    """A stage without a heartbeat for so long stops the watchdog."""


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    parts: bool = True
    """One line per part."""


class ReviewSettings(Section):
    """Which parts people judge, see docs/review.md."""

    pass_rate: Probability = 1.0
    """Of the stored pictures of PASS that are not borderline, the share that is judged, at random."""
    borderline: Probability = 0.8
    """A PASS is borderline from this share of the threshold on; a spot that was let pass always is."""
    borderline_rate: Probability = 1.0
    """Share of the borderline PASS that is judged."""
    second_rate: Probability = 0.1
    """Share of the parts that two people judge, so that they can be compared."""
    max_escape: Probability = 0.0
    """What is promised of defective parts that pass; 0 = what the engine bundle promises."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Of all bounds, and of ``max_escape`` where it is given here."""
    seed: Whole = 1
    """Chooses the sample and the order; changing it draws another sample."""
