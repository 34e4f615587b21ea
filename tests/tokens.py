"""Tokens with their logits: what the golden model says, and what a simulated accelerator said."""

from llmrtl.sim.golden.machine import Machine


def steps(image, prompt, count):
    return [(step.token, step.value) for step in Machine(image).generate(prompt, count)]


def said(run):
    return [(token.token, token.value) for token in run.tokens]
