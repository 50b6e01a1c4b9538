"""Tests of what is written for people: pages, commands, the site."""
