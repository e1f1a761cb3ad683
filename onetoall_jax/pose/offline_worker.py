"""Runs MediaPipe's holistic detector over a video or picture, in its own environment.

Called by its path with that environment's Python:

    python offline_worker.py INPUT OUTPUT.npz

It imports nothing of this package, because MediaPipe cannot share an environment with
today's JAX. Writes `keypoints` [F,133,3] in pixels, `size` and `fps`; a frame without a
person has score 0 everywhere.
"""

import sys

import cv2
import mediapipe as mp
import numpy as np

_BODY = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
# Big toe, small toe, heel of each side; MediaPipe has no small toe.
_FEET = [31, None, 29, 32, None, 30]
# One mesh vertex for each of the 68 face points; brows lie between two.
_FACE: list = [
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    (70, 46), (63, 53), (105, 52), (66, 65), (107, 55),
    (336, 285), (296, 295), (334, 282), (293, 283), (300, 276),
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317,
    14, 87,
]  # fmt: skip


def _points(found, height, width):
    keypoints = np.zeros((133, 3), np.float32)

    def put(index, mark, score):
        keypoints[index] = (mark.x * width, mark.y * height, score)

    if found.pose_landmarks:
        marks = found.pose_landmarks.landmark
        for i, j in enumerate(_BODY + _FEET):
            if j is not None:
                put(i, marks[j], marks[j].visibility)
    if found.face_landmarks:
        marks = found.face_landmarks.landmark
        for i, j in enumerate(_FACE):
            pair = [marks[v] for v in (j if isinstance(j, tuple) else (j,))]
            x = np.mean([m.x for m in pair]) * width
            y = np.mean([m.y for m in pair]) * height
            keypoints[23 + i] = (x, y, 1.0)
    hands = ((91, found.left_hand_landmarks), (112, found.right_hand_landmarks))
    for start, hand in hands:
        for i, mark in enumerate(hand.landmark if hand else []):
            put(start + i, mark, 1.0)
    return keypoints


def main():
    """Detects frame by frame; pictures are taken as clips of one frame."""
    source, target = sys.argv[1:3]
    capture = cv2.VideoCapture(source)
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    tracked = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 1
    every = []
    with mp.solutions.holistic.Holistic(
        model_complexity=1, static_image_mode=not tracked
    ) as detector:
        while True:
            read, frame = capture.read()
            if not read:
                break
            height, width = frame.shape[:2]
            found = detector.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            every.append(_points(found, height, width))
    if not every:
        sys.exit(f"no frame could be read from {source}")
    np.savez(
        target,
        keypoints=np.stack(every),
        size=np.array([height, width]),
        fps=np.float32(fps),
    )


if __name__ == "__main__":
    main()
