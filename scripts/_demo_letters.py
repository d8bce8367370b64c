"""The mail of the agents' demo: messages of customers, each with the department that a person would give it to.

The examples in examples/agents/department.c were chosen with other messages. Four variants of the prompt were compared
on those and on these; the best on the others was taken, and was the best on these too.
"""

from __future__ import annotations

from typing import Final

LETTERS: Final = (
    ("I cannot find the receipt for my last payment.", "billing"),
    ("My parcel is marked as delivered, but it is not here.", "delivery"),
    ("The login page shows a blank screen.", "technical"),
    ("These trousers are too long, I would like a shorter pair.", "returns"),
    ("The monthly fee went up and nobody told me.", "billing"),
    ("Can the driver leave the box with my neighbour?", "delivery"),
    ("My camera does not turn on after charging.", "technical"),
    ("I do not need the second chair and want to send it back.", "returns"),
    ("Please cancel the charge of thirty dollars on my account.", "billing"),
    ("It has been two weeks and the package is still in transit.", "delivery"),
    ("The app does not send me notifications any more.", "technical"),
    ("The cup arrived broken, can I exchange it?", "returns"),
    ("Is there a discount if I pay for a whole year?", "billing"),
    ("What does express shipping cost and how fast is it?", "delivery"),
    ("The video stops and loads again every few seconds.", "technical"),
    ("How many days do I have to return a gift?", "returns"),
    ("I was promised a coupon but paid the full price.", "billing"),
    ("Half of my order has not been shipped yet.", "delivery"),
    ("How do I install the program on a new computer?", "technical"),
    ("The colour is not what I saw online, I want to return it.", "returns"),
    ("Which credit cards do you take?", "billing"),
    ("Please deliver after five, I am at work before that.", "delivery"),
    ("An error message appears when I upload a photo.", "technical"),
    ("Can I bring the coat back to a shop instead of mailing it?", "returns"),
)
