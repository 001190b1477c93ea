"""What pages may still do although a rule of page_rules.py forbids it. This list only shrinks.

Each line is a problem as it is printed, without the number of its cell. A page that gets better
still fails until its line here says so, or is gone.
"""

EXCEPTIONS: dict[str, list[str]] = {
    "00_start_here": [
        "2 parts, one at most: Explain, Fix, prove",
        "4 parts, one at most: The map, Your turn, In practice, Further reading",
        "## Fix, prove: a step is called Fix, or Fix: and its subject",
        "the first of 3 code cells in a row, 2 at most without a sentence",
    ],
    "02_crash_a_worker": [
        "3 parts, one at most: Your turn, In practice, Further reading",
        "53 cells, 45 at most",
        "1826 words, 1500 at most",
        "the first of 4 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
    ],
    "05_run_it_twice": [
        "4 parts, one at most: What you counted, Your turn, In practice, Further reading",
        "47 cells, 45 at most",
        "1584 words, 1500 at most",
        "5.5 lines in the median code cell, 5 at most",
        "the first of 4 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
        "an assert beside the answer to a Predict, or before it",
    ],
    "06_hang_a_chord": [
        "3 parts, one at most: Your turn, In practice, Further reading",
        "46 cells, 45 at most",
        "1770 words, 1500 at most",
        "7 lines in the median code cell, 5 at most",
        "the first of 4 code cells in a row, 2 at most without a sentence",
        "the first of 4 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "the first of 3 code cells in a row, 2 at most without a sentence",
        "an assert beside the answer to a Predict, or before it",
    ],
}
