"""Runs MediaPipe's holistic detector over frames, in its own environment.

Called by its path with that environment's Python. Each question on the standard input
is three int32 (what, height, width), then the RGB bytes of a frame:

    0    forget: the next frame belongs to another clip; no frame, no answer
    1    a picture that tells nothing of the others
    2    the next frame of a clip

and each frame is answered with its key points [133,3] float32 in pixels, score 0 where
nobody is. It imports nothing of this package, because MediaPipe cannot share an
environment with today's JAX.
"""

import os
import struct
import sys

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


def _detected(read, height, width, detector):
    found = []
    while read(1) == b"\1":
        frame = np.frombuffer(read(height * width * 3), np.uint8)
        marks = detector.process(frame.reshape(height, width, 3))
        found.append(_points(marks, height, width))
    return np.stack(found) if found else np.zeros((0, 133, 3), np.float32)


def main():
    """Answers frame after frame until there is no more input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # MediaPipe prints
    read = sys.stdin.buffer.read
    holistic = mp.solutions.holistic.Holistic
    pictures = tracker = None
    while len(header := read(12)) == 12:
        what, height, width = struct.unpack("<iii", header)
        if what == 0:
            if tracker:
                tracker.close()
            tracker = None
            continue
        frame = np.frombuffer(read(height * width * 3), np.uint8)
        if what == 1:
            pictures = pictures or holistic(model_complexity=1, static_image_mode=True)
            detector = pictures
        else:
            tracker = detector = tracker or holistic(model_complexity=1)
        found = detector.process(frame.reshape(height, width, 3))
        answers.write(_points(found, height, width).astype("<f4").tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
