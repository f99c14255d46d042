"""Fused code behind the losses: each fast path has a plain twin that it is tested against."""
