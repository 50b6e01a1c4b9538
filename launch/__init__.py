"""Starts `openseg` command lines on TPUs, clusters, GPU boxes and this machine: see README.md.

Runs from a checkout (`python -m launch`), needs Python 3.11 and no package but the checkout.
"""
