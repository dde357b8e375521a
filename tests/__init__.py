"""Tests of evercache."""
