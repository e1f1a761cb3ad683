import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import decode, detect_onnx, files
from tools.parity import case as cases

GOLDEN = Path(__file__).parent.parent / "golden"


class Recorded:
    """A network that answers what was recorded and keeps what it was asked."""

    def __init__(self, *outputs, size=()):
        self.outputs, self.asked = outputs, []
        self._input = SimpleNamespace(name="picture", shape=[1, 3, *size])

    def get_inputs(self):
        return [self._input]

    def run(self, names, inputs):
        self.asked.append(inputs["picture"])
        return [o[None] for o in self.outputs]


def recorded(name):
    return cases.load(GOLDEN / name)


def frame(height, width):
    """Red, green and blue differ everywhere."""
    return np.tile(np.array([200, 100, 50], np.uint8), (height, width, 1))


def test_vitpose_gets_rgb_then_bgr_and_its_maps_are_placed_in_the_box():
    boxes = recorded("keypoint_decode_person_box")
    maps = np.resize(
        recorded("keypoint_decode_heatmap").inputs["heatmaps"][0], (133, 64, 48)
    )
    detector, pose = Recorded(boxes.inputs["raw"][2]), Recorded(maps)
    height, width = boxes.config["raw_hw"]
    found = detect_onnx.VitPose(detector, pose)(frame(height, width))

    (seen,) = detector.asked
    assert seen.shape == (1, 3, 640, 640) and seen.dtype == np.float32
    np.testing.assert_allclose(seen[0, :, 9, 9], np.array([200, 100, 50]) / 255)
    (seen,) = pose.asked
    assert seen.shape == (1, 3, 256, 192) and seen.dtype == np.float32
    bgr = (np.array([50, 100, 200]) / 255 - decode.MEAN) / decode.STD
    np.testing.assert_allclose(seen[0, :, 128, 96], bgr, rtol=1e-6)
    person = decode.heatmap_box(boxes.outputs["bbox"][2], height, width)
    points, scores = decode.heatmap_points(maps, person)
    np.testing.assert_array_equal(found[:, :2], points)
    np.testing.assert_array_equal(found[:, 2], scores)
    assert found.shape == (133, 3) and found.dtype == np.float32

    detect_onnx.VitPose(detector, pose, colours="rgb")(frame(height, width))
    rgb = (np.array([200, 100, 50]) / 255 - decode.MEAN) / decode.STD
    np.testing.assert_allclose(pose.asked[1][0, :, 128, 96], rgb, rtol=1e-6)


def test_dwpose_gets_the_surest_person_in_the_channels_given():
    yolox, simcc = recorded("keypoint_decode_yolox"), recorded("keypoint_decode_simcc")
    raw = np.tile(yolox.inputs["background_row"], (8400, 1))
    raw[yolox.inputs["row_index"]] = yolox.inputs["rows"]
    x, y = simcc.inputs["simcc_x"][0], simcc.inputs["simcc_y"][0]
    detector, pose = Recorded(raw), Recorded(x, y, size=(96, 72))
    picture = frame(*yolox.inputs["image"].shape[:2])
    found = detect_onnx.DwPose(detector, pose)(picture)

    np.testing.assert_array_equal(detector.asked[0][0, :, 9, 9], [200, 100, 50])
    (seen,) = pose.asked
    assert seen.shape == (1, 3, 96, 72) and seen.dtype == np.float32
    box = decode.simcc_box(yolox.outputs["boxes"][0], 96, 72)
    points, scores = decode.simcc_points(x, y, box)
    np.testing.assert_allclose(found[:, :2], points, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 2], scores)


def test_dwpose_takes_the_whole_frame_where_nobody_is():
    simcc = recorded("keypoint_decode_simcc")
    x, y = simcc.inputs["simcc_x"][0], simcc.inputs["simcc_y"][0]
    pose = Recorded(x, y, size=(96, 72))
    detector = Recorded(np.zeros((8400, 85), np.float32))
    found = detect_onnx.DwPose(detector, pose)(frame(120, 60))
    # 150 high by the padding, so 112.5 wide, around (30, 60).
    shown = (x.max(axis=1) > 0) & (y.max(axis=1) > 0)
    across = x.argmax(axis=1) / 144 * 112.5 + 30 - 112.5 / 2
    down = y.argmax(axis=1) / 192 * 150 + 60 - 75
    np.testing.assert_allclose(found[shown, 0], across[shown], atol=1e-4)
    np.testing.assert_allclose(found[shown, 1], down[shown], atol=1e-4)


def test_a_network_of_other_points_is_refused():
    maps = recorded("keypoint_decode_heatmap").inputs["heatmaps"][0]
    chain = detect_onnx.VitPose(Recorded(np.zeros((0, 6), np.float32)), Recorded(maps))
    with pytest.raises(UserError, match="finds 24 points, not 133"):
        chain(frame(60, 40))


def test_a_clip_becomes_a_track():
    shown = []

    def chain(picture):
        shown.append(picture)
        return np.full((133, 3), len(shown), np.float32)

    frames = (frame(60, 40) for _ in range(3))
    track = detect_onnx.track(frames, 24.0, chain)
    assert track.keypoints.shape == (3, 133, 3)
    np.testing.assert_array_equal(track.keypoints[:, 0, 0], [1, 2, 3])
    assert track[1:] == (60, 40, 24.0)


def test_frames_of_two_sizes_or_none_are_refused():
    def chain(picture):
        return np.zeros((133, 3), np.float32)

    with pytest.raises(UserError, match="Frame 1 has 40x60 pixels.* 60x40"):
        detect_onnx.track([frame(60, 40), frame(40, 60)], 24.0, chain)
    with pytest.raises(UserError, match="no frame"):
        detect_onnx.track([], 24.0, chain)


# --- Opening -------------------------------------------------------------------------


def networks(folder, name="vitpose"):
    chain = detect_onnx.CHAINS[name]
    for path in (chain.detector, chain.pose):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return chain


def test_a_missing_network_is_named_with_its_place(tmp_path):
    chain = networks(tmp_path)
    (tmp_path / chain.pose).unlink()
    with pytest.raises(UserError, match=f"no network {tmp_path / chain.pose}: "):
        detect_onnx.open_chain("vitpose", tmp_path, Recorded)


def test_an_unknown_chain_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'openpose'.*\['dwpose', 'vitpose'\]"):
        detect_onnx.open_chain("openpose", tmp_path)


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    networks(tmp_path, "dwpose")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install onetoall-jax\[pose\]"):
        detect_onnx.open_chain("dwpose", tmp_path)


def test_networks_open_on_what_the_build_offers_and_may_be_folders(
    tmp_path, monkeypatch
):
    chain = networks(tmp_path)
    (tmp_path / chain.pose).unlink()
    (tmp_path / chain.pose).mkdir()
    (tmp_path / chain.pose / "end2end.onnx").touch()
    opened = []

    def session(path, providers):
        opened.append((path, providers))
        return Recorded()

    module = types.ModuleType("onnxruntime")
    module.InferenceSession = session
    module.get_available_providers = lambda: ["Other", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    assert isinstance(detect_onnx.open_chain("vitpose", tmp_path), detect_onnx.VitPose)
    paths = [tmp_path / chain.detector, tmp_path / chain.pose / "end2end.onnx"]
    assert opened == [(str(p), ["CPUExecutionProvider"]) for p in paths]


def test_a_broken_network_is_told(tmp_path, monkeypatch):
    def session(path, providers):
        raise RuntimeError("INVALID_PROTOBUF")

    module = types.ModuleType("onnxruntime")
    module.InferenceSession = session
    module.get_available_providers = lambda: ["CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    networks(tmp_path)
    with pytest.raises(UserError, match="is no network that onnxruntime can open"):
        detect_onnx.open_chain("vitpose", tmp_path)


def test_a_picture_is_detected_from_the_command_line(tmp_path, monkeypatch):
    media.write_image(tmp_path / "a.png", frame(60, 40))
    asked = []

    def chain(picture):
        return np.ones((133, 3), np.float32)

    def open_chain(*words, **more):
        asked.append((*words, more))
        return chain

    monkeypatch.setattr(detect_onnx, "open_chain", open_chain)
    output = tmp_path / "a.npz"
    detect_onnx.main([f"--input={tmp_path / 'a.png'}", f"--output={output}",
                      f"--models={tmp_path}"])  # fmt: skip
    track = files.read(output)
    assert track.keypoints.shape == (1, 133, 3)
    assert track[1:] == (60, 40, 1.0)
    assert asked == [("vitpose", tmp_path, {"colours": "bgr"})]


def test_the_command_line_tells_what_is_missing_in_one_line(tmp_path, capsys):
    media.write_image(tmp_path / "a.png", frame(60, 40))
    with pytest.raises(SystemExit) as stopped:
        detect_onnx.main([f"--input={tmp_path / 'a.png'}", "--output=/none/a.npz",
                          f"--models={tmp_path}"])  # fmt: skip
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: There is no network") and told.count("\n") == 1
