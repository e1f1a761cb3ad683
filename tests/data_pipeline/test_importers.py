"""Every layout on a small folder made after its description."""

import ast
import csv

import numpy as np
import pytest

from data_pipeline import builder, pools, synthetic
from data_pipeline.importers import deepfashion, footage, layouts
from data_pipeline.prepare import run
from data_pipeline.prepare.screening import ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track
from onetoall_jax.pose.keypoints import to_pose

HEIGHT, WIDTH = 96, 64
CONFIG = PrepareConfig(
    lossless=True, screen=ScreenConfig(sharpness=0.0, person_height=0.0)
)


def clip(seed, count):
    made = synthetic.SyntheticConfig(HEIGHT, WIDTH, count, canvas_side=0, seed=seed)
    return synthetic.make_clip(made, "train", seed)


def picture(path, seed, frame=0):
    """A picture of somebody; its key points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = clip(seed, frame + 1)
    media.write_image(path.with_suffix(".png"), made.frames[frame])
    path.with_suffix(".png").rename(path)
    return made.keypoints[frame]


def points_beside(path, keypoints):
    stacked = np.reshape(keypoints, (-1, 133, 3))
    files.write(path.with_suffix(".npz"), Track(stacked, HEIGHT, WIDTH, 8.0))


def prepared(layout, folder, out, **more):
    made = layouts.read(layout, folder)
    run.prepare(made, out, CONFIG, run.local(0), **more)
    return made


# --- A plain folder ------------------------------------------------------------------


def test_a_folder_gives_its_videos_and_pictures_and_names_the_rest(tmp_path):
    points_beside(tmp_path / "b.png", picture(tmp_path / "b.png", 0))
    media.write_video(tmp_path / "a.mp4", clip(1, 3).frames, 8.0)
    (tmp_path / ".hidden.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("words")
    found = layouts.read("folder", tmp_path)
    assert [(i.name, i.keypoints) for i in found.items] == [
        ("a.mp4", None), ("b.png", tmp_path / "b.npz"),
    ]  # fmt: skip
    assert found.told == ("2 videos and pictures", "passed over other files: 1 x .txt")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("folder", "holds no video and no picture"),
        ("onetoall", "holds no table of the release"),
        ("tiktok", "holds no folder NNNNN/images"),
        ("ubc_fashion", "holds no video in train or test"),
        ("deepfashion", "holds no MEN/… or WOMEN/… tree"),
        ("tictoc", "no layout 'tictoc': choose from"),
    ],
)
def test_a_folder_in_which_nothing_fits_is_refused(tmp_path, layout, sentence):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match=sentence):
        layouts.read(layout, tmp_path)


# --- TikTok --------------------------------------------------------------------------


def test_tiktok_sequences_become_clips_at_thirty_frames_a_second(tmp_path):
    root = tmp_path / "TikTok_dataset" / "TikTok_dataset"
    for sequence in (1, 2):
        images = root / f"{sequence:05d}" / "images"
        points = [picture(images / f"{i:04d}.png", sequence, i) for i in range(1, 13)]
        points_beside(images, points)
        picture(root / f"{sequence:05d}" / "masks" / "0001.png", 0)
    found = prepared("tiktok", tmp_path, tmp_path / "out")
    assert found.told == ("2 sequences of frames",)
    rows = builder.Rows(tmp_path / "out", "train")
    assert rows.sizes.num_frames.tolist() == [12, 12]
    assert rows.sizes.fps.tolist() == [30, 30]
    stored = rows.read(1, [0, 11])
    np.testing.assert_array_equal(stored.frames, clip(2, 13).frames[[1, 12]])
    np.testing.assert_allclose(
        stored.keypoints, clip(2, 13).keypoints[[1, 12]], atol=1e-4
    )


def test_tiktok_frames_are_sorted_by_number_and_cut_where_some_are_missing(tmp_path):
    images = tmp_path / "00007" / "images"
    for i in (8, 9, 10, 11, 13):
        picture(images / f"{i}.png", 0)
    picture(images / "cover.png", 0)
    found = layouts.read("tiktok", tmp_path)
    assert [(i.name, [p.stem for p in i.files]) for i in found.items] == [
        ("00007/images from 8", ["8", "9", "10", "11"]),
        ("00007/images from 13", ["13"]),
    ]
    assert {i.group for i in found.items} == {"00007/images"}
    assert found.told[1:] == (
        "cut at 1 places where frames are missing",
        "passed over 1 pictures whose names are no numbers",
    )


# --- UBC Fashion ---------------------------------------------------------------------


def ubc(root, name, seed, fps):
    root.mkdir(parents=True, exist_ok=True)
    made = clip(seed, 12)
    media.write_video(root / name, made.frames, fps)
    points_beside(root / name, made.keypoints)


def test_ubc_fashion_keeps_its_splits_and_counts_what_is_absent(tmp_path):
    ubc(tmp_path / "train", "A1P+0ZhMAiS.mp4", 1, 24)
    ubc(tmp_path / "train", "B2.mp4", 2, 30)
    ubc(tmp_path / "test", "C3.mp4", 3, 24)
    address = "https://example.org/videos"
    lines = [f"{address}/{n}" for n in ("A1P%2B0ZhMAiS.mp4", "B2.mp4", "D4.mp4")]
    (tmp_path / "fashion_train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "fashion_test.txt").write_text(f"{address}/C3.mp4\n")
    found = prepared("ubc_fashion", tmp_path, tmp_path / "out")
    assert found.told == (
        "3 clips: 2 to train, 1 to test",
        "1 listed clips are not there, as D4.mp4",
    )
    train, test = (builder.Rows(tmp_path / "out", s) for s in ("train", "test"))
    assert train.sizes.fps.tolist() == [24, 30]
    assert test.sizes.num_frames.tolist() == [12]


def test_loose_ubc_clips_are_found_by_the_lists(tmp_path):
    ubc(tmp_path, "A1.mp4", 1, 24)
    ubc(tmp_path, "other.mp4", 2, 24)
    (tmp_path / "fashion_test.txt").write_text("https://example.org/A1.mp4\n")
    found = layouts.read("ubc_fashion", tmp_path)
    assert [(i.name, i.split) for i in found.items] == [("A1.mp4", "test")]
    assert found.told[-1] == "passed over 1 videos that are in no split"


# --- DeepFashion ---------------------------------------------------------------------

TREE = {
    "WOMEN/Blouses_Shirts/id_00000001/02_1_front.jpg": 1,
    "WOMEN/Blouses_Shirts/id_00000001/02_2_side.jpg": 2,
    "MEN/Denim/id_00000080/01_7_additional.jpg": 3,
    "MEN/Denim/id_00000080/01_4_full.jpg": 4,
}
FLAT = [
    "fashionWOMENBlouses_Shirtsid0000000102_1front",
    "fashionWOMENBlouses_Shirtsid0000000102_2side",
    "fashionMENDenimid0000008001_7additional",
    "fashionMENDenimid0000008001_4full",
]


def test_flat_names_follow_from_the_tree_and_stand_for_themselves():
    for path, flat in zip(TREE, FLAT, strict=True):
        assert deepfashion.flat_name("img_highres/" + path[:-4]) == flat
        assert deepfashion.flat_name("train_highres/" + flat) == flat
    assert deepfashion.flat_name("WOMEN/Denim/cover") is None


def table(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def test_deepfashion_pairs_of_a_table_become_rows_of_two(tmp_path):
    for path, seed in TREE.items():
        target = tmp_path / "img_highres" / path
        points_beside(target, picture(target, seed))
    names = [f"{name}.jpg" for name in FLAT]
    table(tmp_path / "fashion-pairs-train.csv", ["", "from", "to"],
          [(0, names[0], names[1]), (1, names[1], names[0]),
           (2, names[1], "fashionWOMENDressesid0000000901_1front.jpg")])  # fmt: skip
    table(tmp_path / "fashion-pairs-test.csv", ["from", "to"], [(names[3], names[2])])
    (tmp_path / "fashion-annotation-train.csv").write_text("name:keypoints_y\n")
    (tmp_path / "test.lst").write_text("\n".join(names[2:]))
    found = prepared("deepfashion", tmp_path, tmp_path / "out")
    assert found.told == (
        "4 pictures", "3 pairs", "passed over 1 pairs whose pictures are not there",
    )  # fmt: skip
    assert [i.group for i in found.items[:1]] == ["MENDenim00000080"]
    train, test = (builder.Rows(tmp_path / "out", s) for s in ("train", "test"))
    assert train.sizes.num_frames.tolist() == [2, 2]
    assert test.sizes.num_frames.tolist() == [2]
    target, source = train.read(0, [0, 1]).frames
    np.testing.assert_array_equal(target, clip(2, 1).frames[0])
    np.testing.assert_array_equal(source, clip(1, 1).frames[0])
    points = test.read(0, [0, 1]).keypoints
    np.testing.assert_allclose(points[0], clip(3, 1).keypoints[0], atol=1e-4)
    np.testing.assert_allclose(points[1], clip(4, 1).keypoints[0], atol=1e-4)


def test_without_a_table_pictures_of_one_garment_are_paired(tmp_path):
    for i, name in enumerate(FLAT[:3]):
        picture(tmp_path / "train" / f"{name}.jpg", i)
    picture(tmp_path / "train_highres" / f"{FLAT[0]}.jpg", 9)
    found = layouts.read("deepfashion", tmp_path)
    first, second = FLAT[:2]
    assert [(p.target, p.source) for p in found.pairs] == [
        (first, second), (second, first),
    ]  # fmt: skip
    (place,) = [i.files[0].parent.name for i in found.items if i.name == first]
    assert place == "train_highres"
    table(tmp_path / "pairs.csv", ["source", "target"], [])
    with pytest.raises(UserError, match="needs columns from, to"):
        layouts.read("deepfashion", tmp_path)


# --- The official release ------------------------------------------------------------


def pose_file(path, keypoints):
    """One dictionary a frame, as the release's table of keys tells."""
    entries = np.empty(len(keypoints), object)
    for i, points in enumerate(keypoints):
        pose = to_pose(points, HEIGHT, WIDTH)
        visible = np.where(pose.body_visible, np.arange(18), -1)
        entries[i] = {
            "bodies": {
                "candidate": pose.body,
                "subset": visible[None],
                "score": pose.body_score[None],
            },
            "faces": pose.face[None],
            "faces_score": pose.face_score[None],
            "hands": pose.hands,
            "hands_score": pose.hands_score,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, entries, allow_pickle=True)


def released(root):
    """A video, two pictures of one person, and the three tables; key points by name."""
    made = clip(1, 40)
    (root / "videos").mkdir(parents=True)
    media.write_video(root / "videos" / "a.mp4", made.frames, 16)
    pose_file(root / "videos" / "a.npy", made.keypoints)
    points = {"a": made.keypoints}
    for name, seed in (("src", 2), ("tgt", 3)):
        points[name] = picture(root / "img" / f"{name}.png", seed)[None]
        pose_file(root / "img" / f"{name}_pose.npy", points[name])
    boxes = [[[1.5, 2, 9, 8]] if i == 6 else [] for i in range(40)]
    video = ["path", "pose_path", "height", "width", "num_frames", "fps",
             "start_frame", "end_frame", "all_ocr_bbox", "qwen_caption",
             "train_start_index", "refimg_index"]  # fmt: skip
    row = ["/data/x/videos/a.mp4", "videos/a.npy", HEIGHT, WIDTH, 40, 16.0, 4, 20,
           str(boxes), "a person dances", "[2, 4, 11]", 7]  # fmt: skip
    gone = ["videos/gone.mp4", "videos/gone.npy", HEIGHT, WIDTH, 40, 16.0, "nan", "",
            "nan", "", "", ""]  # fmt: skip
    table(root / "opensource_data_vid.csv", video, [row, gone])
    still = ["path", "target_path", "pose_path", "height", "width", "aspect_ratio",
             "resolution", "qwen_caption", "text"]  # fmt: skip
    table(root / "opensource_data_fashion_img.csv", still,
          [["img/src.png", "img/tgt.png", "img/tgt_pose.npy", HEIGHT, WIDTH, 1.5, 512,
            "a cartoon woman", ""]])  # fmt: skip
    return points, video, row


def test_released_tables_become_clips_and_pairs(tmp_path):
    points, *_ = released(tmp_path)
    table(tmp_path / "images_pose_pool_24_18pt.csv", ["pose_path", "height", "width"],
          [["x.npy", 1, 1]])  # fmt: skip
    found = prepared("onetoall", tmp_path, tmp_path / "out")
    assert found.told == (
        "opensource_data_fashion_img.csv: 2 videos and pictures, 1 pairs",
        "opensource_data_vid.csv: 1 videos and pictures, 0 pairs",
        "passed over the tables images_pose_pool_24_18pt.csv",
        "passed over 1 rows, first: There is no file videos/gone.mp4.",
    )
    rows = builder.Rows(tmp_path / "out", "train")
    # The release lets a clip go on for two seconds: from 4 to min(20 + 2 * 16, 40).
    assert rows.sizes.num_frames.tolist() == [36, 2]
    # Frames of the file; the clip begins at the fourth.
    assert rows.sizes.marked(0) == builder.Marks((0, 7), (3,))
    assert rows.sizes.marked(1) == builder.Marks()
    whole = rows.read(0, [0, 2, 35])
    assert whole.caption == "a person dances"
    assert whole.text_boxes == [[], [[1.5, 2, 9, 8]], []]
    body = np.delete(np.arange(133), np.arange(17, 23))  # drawn poses have no feet
    sure = points["a"][[4, 6, 39]][:, body]
    stored = whole.keypoints[:, body]
    assert (sure[..., 2] > 0.3).mean() > 0.9
    np.testing.assert_allclose(
        stored[sure[..., 2] > 0.3], sure[sure[..., 2] > 0.3], atol=1e-3
    )
    pair = rows.read(1, [0, 1])
    assert pair.caption == "a cartoon woman"
    np.testing.assert_array_equal(pair.frames[0], clip(3, 1).frames[0])
    np.testing.assert_array_equal(pair.frames[1], clip(2, 1).frames[0])


def test_of_the_combined_table_groups_give_all_their_pairs(tmp_path):
    _, video, row = released(tmp_path)
    entry = {"src_path": "img/src.png", "tgt_path": "img/tgt.png",
             "tgt_pose_path": "img/tgt_pose.npy", "qwen_caption": "a woman",
             "text": float("nan")}  # fmt: skip
    back = {**entry, "src_path": "img/tgt.png", "tgt_path": "img/src.png",
            "tgt_pose_path": "img/src_pose.npy"}  # fmt: skip
    pairs = str([entry, back])
    with pytest.raises(ValueError, match="malformed"):
        ast.literal_eval(pairs)  # a table written by pandas holds bare nan
    group = ["image_02800", "", HEIGHT, WIDTH, 1, *[""] * 7, pairs]
    table(tmp_path / "combined_imgvid_dataset.csv", [*video, "img_pairs"],
          [group, [*row, ""]])  # fmt: skip
    found = layouts.read("onetoall", tmp_path)
    assert [(p.target, p.source) for p in found.pairs] == [
        ("img/tgt.png", "img/src.png"), ("img/src.png", "img/tgt.png"),
    ]  # fmt: skip
    assert [(i.first, i.end) for i in found.items if not i.is_picture] == [(4, 40)]
    assert "passed over the tables" in found.told[1]


class Harmful:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_pose_file_that_asks_for_more_than_numbers_is_left_out(tmp_path, capsys):
    released(tmp_path)
    (tmp_path / "opensource_data_vid.csv").unlink()
    array = np.empty(1, object)
    array[0] = Harmful()
    np.save(tmp_path / "img" / "tgt_pose.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match="train on: 1 x unreadable"):
        prepared("onetoall", tmp_path, tmp_path / "out")
    said = capsys.readouterr()
    assert "asks for builtins.print" in said.out + said.err


def test_broken_text_boxes_are_told(tmp_path):
    item = footage.Item("a", (tmp_path / "a.mp4",), text_boxes="[[(1, 2, 3, 4)], None]")
    assert item.boxes(2) == [[[1, 2, 3, 4]], []]
    with pytest.raises(UserError, match="3 frames but text boxes for 2"):
        item.boxes(3)
    for broken in ("[[", "[[1]]", "[[[1, 2, 3]]]"):
        with pytest.raises(UserError, match="text boxes"):
            footage.Item("a", (), text_boxes=broken).boxes(1)


def test_a_pair_of_different_sizes_gets_the_size_of_its_target(tmp_path):
    """The source is cut in its middle to the target's aspect, its points with it."""
    names = [tmp_path / "img" / f"{n}.jpg" for n in FLAT[:2]]
    for path, size in zip(names, ((48, 32), (40, 40)), strict=True):
        path.parent.mkdir(exist_ok=True)
        shade = np.full((*size, 3), 9, np.uint8)
        shade[4:6, 20:22] = 200
        media.write_image(path.with_suffix(".png"), shade)
        path.with_suffix(".png").rename(path)
        points = np.full((1, 133, 3), 20.0)
        points[..., 2] = 0.9
        files.write(path.with_suffix(".npz"), Track(points, *size, 1.0))
    prepared("deepfashion", tmp_path, tmp_path / "out")
    row = builder.Rows(tmp_path / "out", "train").read(0, [0, 1])
    assert row.frames.shape == (2, 48, 32, 3)
    # 40x40 keeps 27 columns from the 6th on, and grows by 48/40 and 32/27.
    expected = (20 - 6) * 32 / 27, 20 * 48 / 40
    np.testing.assert_allclose(row.keypoints[1, 0, :2], expected, rtol=1e-6)


def test_damaged_tables_are_one_sentence_or_rows_passed_over(tmp_path):
    """200 tables with some bytes changed, cut out or doubled."""
    _, video, row = released(tmp_path)
    entry = {"src_path": "img/src.png", "tgt_path": "img/tgt.png",
             "tgt_pose_path": "img/tgt_pose.npy", "qwen_caption": ""}  # fmt: skip
    group = ["image_02800", "", HEIGHT, WIDTH, 1, "", "", "", "", "", str([entry])]
    path = tmp_path / "combined_imgvid_dataset.csv"
    table(path, [*video, "img_pairs"], [group, [*row, ""]])
    whole, refused, read = path.read_bytes(), 0, 0
    for seed in range(200):
        rng, data = np.random.default_rng(seed), bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            start = int(rng.integers(len(data)))
            end = start + int(rng.integers(1, 40))
            choice = rng.integers(3)
            if choice == 0:
                data[start] = rng.integers(256)
            elif choice == 1:
                del data[start:end]
            else:
                data[start:start] = data[start:end]
        path.write_bytes(data)
        try:
            found = layouts.read("onetoall", tmp_path)
            read += 1
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            for item in found.items:
                assert item.size is None or min(item.size) > 0
    assert refused + read == 200 and min(refused, read) > 20


# --- Pools of poses ------------------------------------------------------------------


def test_released_pools_are_read_from_their_raw_points(tmp_path):
    """Raw files hold 134 points in pixels, the neck after the 17 of the body."""
    raw = np.random.default_rng(0).uniform(0, 90, (2, 134, 2))
    entry = np.empty(1, object)
    entry[0] = {"candidate": raw, "score": np.full((2, 134), 0.9)}
    (tmp_path / "poses").mkdir()
    np.save(tmp_path / "poses" / "a_raw.npy", entry, allow_pickle=True)
    table(tmp_path / "images_pose_pool_24_18pt.csv", ["pose_path", "height", "width"],
          [["/data/pool/poses/a.npy", 90, 60]])  # fmt: skip
    table(tmp_path / "other.csv", ["path", "pose_path", "height", "width"], [])
    pools.main([f"--released={tmp_path}", f"--output={tmp_path / 'pool.npz'}"])
    pool = pools.read(tmp_path / "pool.npz")
    assert pool.keypoints.shape == (1, 133, 3) and pool.size.tolist() == [[90, 60]]
    nose, face = pool.keypoints[0, 0, :2], pool.keypoints[0, 23:91, :2]
    np.testing.assert_allclose(nose, raw[0, 0], rtol=1e-6)
    np.testing.assert_allclose(face, raw[0, 24:92], rtol=1e-6)
    (tmp_path / "poses" / "a_raw.npy").unlink()
    with pytest.raises(UserError, match="no pose file /data/pool/poses/a_raw.npy"):
        pools.build_released(tmp_path)
    with pytest.raises(UserError, match="holds no table of poses"):
        pools.build_released(tmp_path / "poses")
