"""Driving poses given the proportions of the reference, both ways of the release.

Each step has the release's float type, since drawing truncates: in the last bit a
point may fall on another pixel.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from onetoall_jax.alignment import anchor as anchors
from onetoall_jax.alignment import limbs
from onetoall_jax.alignment.person import DRAWN, Person
from onetoall_jax.errors import UserError

_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
    (13, 18), (10, 19),
)  # fmt: skip
_TWINS = ((0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (17, 18))
_EYES_AND_EARS = ((13, 15), (14, 16))
FULL, THREE_QUARTERS, HALF = 2, 1, 0  # how much of the body a picture shows
_TINY = 1e-6
_SHIFTED = ("first", "all", "none")
_DROPPED = (-1, -1, 0)  # a hand's weak point


@dataclasses.dataclass(frozen=True)
class RetargetConfig:
    """The release's slips, each with what was meant; the defaults are the release's.

    Attributes:
      sure: score from which a joint's proportion counts (towards the driving person).
      foot_on_ground: compare feet with feet; the release compares the driving ankle
        with the middle of the reference's foot.
      shifted_frames: which frames move sideways by what puts frame 0 where the anchor
        stands: "first" leaves a jump after frame 0, "all" keeps the clip together,
        "none" leaves the anchor's own place.
      same_side_hands: a hand follows the arm of its own side; the release moves the
        other one's points.
      exchanged_by_own_root: a hand found at the other one's wrist is laid with its root
        on that wrist; the release takes the other hand's root and misses the wrist.
      whole_chains: ears follow the eyes, legs the hips; in the release they stay.
      even_sides: eyes, ears and hips too have one ratio for left and right; in the
        release only shoulders, arms and legs do.
      hand_threshold: score below which a point of a hand is dropped.
      limit: a bone's ratio may be so many times larger or smaller than the typical one
        of its body; 0 is no limit, as released. Beyond it a joint is more likely to be
        misplaced than a body to be built so.
      only_seen: bones that the anchor does not show are measured in the nearest frame
        that does; what is never shown takes the typical ratio. In the release that of
        where its joints were guessed to be (towards the driving person: 1).
      in_pixels: towards the driving person, lengths are measured in pixels; the release
        measures in units of the frame, where a limb is longer the more it leans.
    Raises:
      UserError: no such `shifted_frames`, or a limit below 1.
    """

    sure: float = anchors.SURE
    foot_on_ground: bool = False
    shifted_frames: str = "first"
    same_side_hands: bool = False
    exchanged_by_own_root: bool = False
    whole_chains: bool = False
    even_sides: bool = False
    hand_threshold: float = 0.4
    limit: float = 0.0
    only_seen: bool = False
    in_pixels: bool = False

    def __post_init__(self) -> None:
        if self.shifted_frames not in _SHIFTED:
            raise UserError(
                f"shifted_frames is {self.shifted_frames!r}; it takes "
                f"{', '.join(map(repr, _SHIFTED))}."
            )
        if self.limit and self.limit < 1:
            raise UserError(
                f"A limit of {self.limit} on bone ratios allows none: give 1 or more, "
                "or 0 for no limit."
            )


MENDED = RetargetConfig(
    foot_on_ground=True,
    shifted_frames="all",
    same_side_hands=True,
    exchanged_by_own_root=True,
    whole_chains=True,
    even_sides=True,
    limit=2.0,
    only_seen=True,
    in_pixels=True,
)


def scale_face(face: np.ndarray, other: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """[68,3] with the proportions of another face and its tip at `nose` [2].

    Source: section 6.2 of the released preprocessing page.
    """
    f, g = face[:, :2], other[:, :2]

    def stretch(i: int, j: int) -> float:
        own = np.linalg.norm(f[i] - f[j])
        return float(np.linalg.norm(g[i] - g[j]) / own) if own > _TINY else 1.0

    eyes = f[36:42].mean(axis=0), f[42:48].mean(axis=0)
    middle = np.mean([*eyes, f[30], f[48], f[54]], axis=0)
    made = face.copy()
    points = middle + (f - middle) * (stretch(36, 45), stretch(27, 8))
    made[:, :2] = points + (nose - points[30])
    return made


# --- towards the reference -----------------------------------------------------------


def to_reference(
    driving: Sequence[Person],
    reference: Person,
    anchor: int,
    driving_size: tuple[int, int],
    reference_size: tuple[int, int],
    config: RetargetConfig = RetargetConfig(),  # noqa: B008
) -> list[Person]:
    """Driving poses with the reference's bones, standing where the reference stands.

    Args:
      anchor: frame of the driving clip that the bones are compared with.
      driving_size, reference_size: (height, width) in pixels.
    Returns:
      One person a frame, relative to the reference's frame; the left hand is drawn
      first.
    Source: section 6.1 of the released preprocessing page.
    """
    fit = _Fit(driving, anchor, reference, driving_size, reference_size, config)
    shift = fit.sideways(driving[0])
    shifted = {"first": 1, "all": len(driving), "none": 0}[config.shifted_frames]
    return [
        fit.frame(person, shift if i < shifted else 0.0)
        for i, person in enumerate(driving)
    ]


class _Fit:
    """Bone ratios and offset between one driving frame and the reference."""

    def __init__(
        self,
        driving: Sequence[Person],
        anchor: int,
        reference: Person,
        source_size: tuple[int, int],
        size: tuple[int, int],
        config: RetargetConfig,
    ):
        self._config, self._reference = config, reference
        self._from = np.array(source_size[::-1], np.float64)
        self._to = np.array(size[::-1], np.float64)
        s, d = driving[anchor].body, reference.body
        self._scale = _size_ratio(s, d, self._from, self._to)
        grown = np.array([int(v * self._scale) for v in self._to], np.float64)
        bodies = [person.body for person in driving]
        chosen = _chosen_frames(bodies, anchor, _LIMBS, limbs.inside)
        if not config.only_seen:
            chosen = {}
        frames = [bodies[chosen.get(limb, anchor)][:, :2] for limb in _LIMBS]
        measured = [p * self._from for p in frames]
        there = limbs.inside(d)
        seen = [limb in chosen and bool(there[list(limb)].all()) for limb in _LIMBS]
        ratios = _bone_ratios(measured, d[:, :2] * grown)
        self._ratios = _limited(ratios, seen if config.only_seen else None, config)
        self._shown = min(shown(s), shown(d))
        placed = self._placed(s[:, :2] * self._from, feet=False)
        self._middle = self._centre(placed)
        self._offset = self._from_to(placed, d[:, :2] * grown)

    def _centre(self, q: np.ndarray) -> float:
        """x [px] that is laid on the reference's."""
        return q[[8, 11], 0].mean() if self._shown == FULL else q[1, 0]

    def _from_to(self, q: np.ndarray, target: np.ndarray) -> np.ndarray:
        """[2] px, what to take off the points to stand where the target stands."""
        if self._shown != FULL:
            return q[1] - target[1]
        low = _mid_foot(q) if self._config.foot_on_ground else q[[10, 13], 1].max()
        across = self._centre(q) - self._centre(target)
        return np.array([across, low - _mid_foot(target)])

    def _placed(self, p: np.ndarray, *, feet: bool) -> np.ndarray:
        """Points [20,2] in pixels with the reference's bones, the neck kept."""
        q = p.copy()
        for k, (a, b) in enumerate(_LIMBS):
            q[b] = q[a] + self._ratios[k] * (p[b] - p[a])
        if feet:
            for toe, ankle, knee in ((19, 10, 9), (18, 13, 12)):
                foot, shin = q[toe] - q[ankle], q[ankle] - q[knee]
                length, most = np.linalg.norm(foot), 0.5 * np.linalg.norm(shin)
                if length > most:
                    q[toe] = q[ankle] + foot * (most / length)
        return q

    def sideways(self, person: Person) -> float:
        """How far [px] a frame stands from the anchor; three quarters do not count."""
        if self._shown == THREE_QUARTERS:
            return 0.0
        q = self._placed(person.body[:, :2] * self._from, feet=True)
        return self._centre(q) - self._middle

    def frame(self, person: Person, shift: float) -> Person:
        p = person.body[:, :2] * self._from
        q = self._placed(p, feet=True)
        out = (q - (self._offset + (shift, 0.0))) / self._scale
        # The release stores float32 pixels before it divides by the size.
        points = out.astype(np.float32).astype(np.float64) / self._to
        body = np.concatenate([points, person.body[:, 2:]], axis=1)
        face = scale_face(person.face, self._reference.face, body[0, :2])
        return Person(body, face, self._hands(person, p, out))

    def _hands(self, person: Person, p: np.ndarray, out: np.ndarray) -> np.ndarray:
        """[2,21,3], left hand first."""
        ratio = max(self._ratios[0], self._ratios[1]) / self._scale
        threshold = self._config.hand_threshold

        def scaled(hand: np.ndarray) -> np.ndarray:
            z = hand.copy()
            z[:, :2] = hand[0, :2] + ratio * (hand[:, :2] - hand[0, :2])
            z[hand[:, 2] < threshold] = _DROPPED
            return z

        def shift(hand: np.ndarray, wrist: int) -> np.ndarray:
            held = (hand[0] != _DROPPED).any()
            return out[wrist] - (hand[0, :2] * self._from if held else p[wrist])

        def placed(hand: np.ndarray, by: np.ndarray) -> np.ndarray:
            made = hand.copy()
            made[:, :2] = np.trunc(hand[:, :2] * self._from + by) / self._to
            made[(hand == _DROPPED).all(axis=1)] = 0
            return made

        right, left = (scaled(hand) for hand in person.hands)
        # Hands are detected apart from arms: the right one is that by the right wrist.
        root = right[0, :2] * self._from
        if np.linalg.norm(p[4] - root) > np.linalg.norm(p[7] - root):
            roots = right, left
            if not self._config.exchanged_by_own_root:
                roots = left, right
            shifts = shift(roots[0], 7), shift(roots[1], 4)
            return np.stack([placed(right, shifts[0]), placed(left, shifts[1])])
        return np.stack([placed(left, shift(left, 7)), placed(right, shift(right, 4))])


def _mid_foot(q: np.ndarray) -> float:
    """y of the lower foot, halfway from ankle to toe."""
    return max((q[10, 1] + q[19, 1]) / 2, (q[13, 1] + q[18, 1]) / 2)


def _size_ratio(
    s: np.ndarray, d: np.ndarray, of_s: np.ndarray, of_d: np.ndarray
) -> float:
    for pair in ((10, 13), (8, 11)):
        joints = [0, *pair]
        if (s[joints, 2] > 0.5).all() and (d[joints, 2] > 0.5).all():
            tall = [abs(b[list(pair), 1].mean() - b[0, 1]) for b in (s, d)]
            return of_s[1] * tall[0] / (of_d[1] * tall[1])
    return np.sqrt(of_s[1] * of_s[0]) / np.sqrt(of_d[1] * of_d[0])


def _chosen_frames(
    bodies: Sequence[np.ndarray],
    anchor: int,
    bones: Iterable[tuple[int, int]],
    shows: Callable[[np.ndarray], np.ndarray],
) -> dict[tuple[int, int], int]:
    """Bone -> the frame nearest to the anchor that shows it; missing if none does."""
    seen = np.stack([shows(body) for body in bodies])
    by_distance = sorted(range(len(bodies)), key=lambda i: abs(i - anchor))
    made = {}
    for bone in bones:
        fitting = (i for i in by_distance if seen[i, list(bone)].all())
        frame = next(fitting, None)
        if frame is not None:
            made[bone] = frame
    return made


def _bone_ratios(measured: Sequence[np.ndarray], d: np.ndarray) -> list[float]:
    """Length in `d` over length in the points given for each limb."""

    def length(p: np.ndarray, k: int) -> float:
        a, b = _LIMBS[k]
        return float(np.linalg.norm(p[a] - p[b]))

    def ratio(k: int) -> float:
        own = length(measured[k], k)
        return length(d, k) / own if own else 1.0  # as elsewhere where nothing is seen

    r = [ratio(k) for k in range(len(_LIMBS))]
    for a, b in _TWINS:
        r[a] = r[b] = max(r[a], r[b])
    for a, b in _EYES_AND_EARS:
        r[a] = r[b] = (r[a] + r[b]) / 2
    return r


def _limited(
    ratios: list[float], seen: list[bool] | None, config: RetargetConfig
) -> list[float]:
    """Ratios within their limits; what that changes, `limbs.unlike` finds.

    Args:
      seen: which limbs both sides show; None takes all as shown.
    """
    if seen is None:
        seen = [True] * len(ratios)
    known = [r for k, r in enumerate(ratios) if seen[k] and _LIMBS[k] in limbs.LIMBS]
    if not known:
        return ratios
    typical = float(np.median(known))
    # Twins share a ratio, so one that is seen speaks for the other.
    heard = list(seen)
    for a, b in (*_TWINS, *_EYES_AND_EARS):
        heard[a] = heard[b] = seen[a] or seen[b]
    ratios = [r if h else typical for r, h in zip(ratios, heard, strict=True)]
    if not config.limit:
        return ratios
    low, high = typical / config.limit, typical * config.limit
    return [min(max(r, low), high) for r in ratios]


def shown(body: np.ndarray) -> int:
    """FULL, THREE_QUARTERS or HALF of a body [20,3]."""

    def inside(*points: int) -> bool:
        chosen = body[list(points)]
        return bool((chosen[:, 1] <= 1).all() and (chosen[:, 2] >= 0.4).all())

    if inside(8, 10, 11, 13):
        return FULL
    return THREE_QUARTERS if inside(8, 11) else HALF


# --- towards the driving person ------------------------------------------------------

_HEAD = ((0, 1), (0, 14), (0, 15), (14, 16), (15, 17))
# (joints that must be seen on top of those before, bones, bones that borrow a ratio)
_GROUPS: tuple[tuple[tuple[int, ...], tuple, tuple], ...] = (
    ((0, 1, 14, 15, 16, 17), _HEAD, ()),
    ((2, 5), ((1, 2), (1, 5)), ()),
    ((3, 6), ((2, 3), (5, 6)), (((3, 4), (2, 3)), ((6, 7), (5, 6)))),
    ((8, 11), ((1, 8), (1, 11)), ()),
    ((4, 7), ((3, 4), (6, 7)), ()),
    ((9, 12), ((8, 9), (11, 12)), (((9, 10), (8, 9)), ((12, 13), (11, 12)))),
    ((10, 13), ((9, 10), (12, 13)), ()),
)
_AVERAGED = (
    ((1, 2), (1, 5)),
    ((2, 3), (5, 6)),
    ((3, 4), (6, 7)),
    ((8, 9), (11, 12)),
    ((9, 10), (12, 13)),
)
_UNEVEN = (((0, 14), (0, 15)), ((14, 16), (15, 17)), ((1, 8), (1, 11)))
_RIGHT, _LEFT = 0, 1  # places of the hands
# Bone (from, to), the joints that follow, the hand that follows.
_MOVES: tuple[tuple[tuple[int, int], tuple[int, ...], int | None], ...] = (
    ((1, 0), (0, 14, 15, 16, 17), None),
    ((1, 2), (2, 3, 4), _RIGHT),
    ((1, 5), (5, 6, 7), _LEFT),
    ((2, 3), (3, 4), _RIGHT),
    ((3, 4), (4,), _RIGHT),
    ((5, 6), (6, 7), _LEFT),
    ((6, 7), (7,), _LEFT),
    ((0, 14), (14,), None),
    ((0, 15), (15,), None),
    ((14, 16), (16,), None),
    ((15, 17), (17,), None),
    ((1, 8), (8,), None),
    ((1, 11), (11,), None),
    ((8, 9), (9, 10), None),
    ((9, 10), (10,), None),
    ((11, 12), (12, 13), None),
    ((12, 13), (13,), None),
)
# What follows an eye and a hip besides, where chains move whole.
_FOLLOWERS = {(0, 14): (16,), (0, 15): (17,), (1, 8): (9, 10), (1, 11): (12, 13)}


def proportions(
    reference: Person,
    driving: Sequence[Person],
    anchor: int,
    config: RetargetConfig = RetargetConfig(),  # noqa: B008
    size: tuple[int, int] = (1, 1),
) -> dict[tuple[int, int], np.float32]:
    """Length of each bone of the reference over the anchor's; 1 where not surely seen.

    Args:
      reference: already scaled and moved onto the anchor.
      size: (height, width) of the frame, for `in_pixels`.
    Source: section 6.3 of the released preprocessing page.
    """
    unit = np.array(size[::-1] if config.in_pixels else (1, 1), np.float32)
    bodies = [person.body for person in driving]
    bones = [bone for _, group, _ in _GROUPS for bone in group]
    chosen = dict.fromkeys(bones, anchor)
    known = anchors.known(reference, driving[anchor], config.sure)
    if config.only_seen:
        sure = _sure(reference.body, config)
        chosen = _chosen_frames(
            bodies, anchor, bones, lambda b: sure & _sure(b, config)
        )
        known = sure & np.any([_sure(b, config) for b in bodies], axis=0)
    r = reference.body[:, :2].astype(np.float32) * unit

    def ratio(bone: tuple[int, int]) -> np.float32:
        if bone not in chosen:
            return np.float32(1)
        i, j = bone
        a = bodies[chosen[bone]][:, :2].astype(np.float32) * unit
        own = np.linalg.norm(a[i] - a[j])
        return np.linalg.norm(r[i] - r[j]) / own if own > _TINY else np.float32(1)

    made = {bone: np.float32(1) for bone in bones}
    for joints, group, borrowed in _GROUPS:
        if not known[list(joints)].all():
            break
        made |= {bone: ratio(bone) for bone in group}
        made |= {bone: made[lender] for bone, lender in borrowed}
    for one, other in _AVERAGED + (_UNEVEN if config.even_sides else ()):
        made[one] = made[other] = (made[one] + made[other]) / 2
    if config.limit:
        # The reference has the anchor's size already: a typical ratio is 1.
        most = np.float32(config.limit)
        made = {bone: np.clip(r, 1 / most, most) for bone, r in made.items()}
    return made


def _sure(body: np.ndarray, config: RetargetConfig) -> np.ndarray:
    return body[:, 2].astype(np.float32) >= np.float32(config.sure)


def to_driving(
    driving: Sequence[Person],
    reference: Person,
    anchor: int,
    config: RetargetConfig = RetargetConfig(),  # noqa: B008
    size: tuple[int, int] = (1, 1),
) -> list[Person]:
    """Driving poses that keep their place but take the reference's proportions.

    Args:
      reference: already scaled and moved onto the anchor (`anchor.moved`).
      size: (height, width) of the frame, for `in_pixels`.
    Source: section 6.3 of the released preprocessing page.
    """
    ratios = proportions(reference, driving, anchor, config, size)
    return [_stretched(p, reference, ratios, config) for p in driving]


def _stretched(
    person: Person,
    reference: Person,
    ratios: dict[tuple[int, int], np.float32],
    config: RetargetConfig,
) -> Person:
    # Bones in float32, the face in float64, as the release has them.
    body, hands = (p.astype(np.float32) for p in (person.body, person.hands))
    c = body[:DRAWN, :2]
    for (a, b), joints, hand in _MOVES:
        ratio = ratios[(a, b) if (a, b) in ratios else (b, a)]
        # How far the end b comes in towards (or goes out from) a.
        by = (c[a] - c[b]) * (1 - ratio)
        more = _FOLLOWERS.get((a, b), ()) if config.whole_chains else ()
        c[[*joints, *more]] += by
        if hand is not None:
            place = hand if config.same_side_hands else 1 - hand
            hands[place, :, :2] += by
    made, held = body.astype(np.float64), hands.astype(np.float64)
    other = reference.face.astype(np.float64)
    return Person(made, scale_face(person.face, other, made[0, :2]), held)
