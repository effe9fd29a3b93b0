"""Restores marks and casing in finals."""

from engines.punctuation.engine import Punctuator, Request
from engines.punctuation.policies import POLICIES, Policy, parse_policies

__all__ = ["POLICIES", "Policy", "Punctuator", "Request", "parse_policies"]
