"""Changing features and watching the answer change."""
