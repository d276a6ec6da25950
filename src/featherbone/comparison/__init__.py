"""Comparison of models over seeds and images: training under one protocol, statistics, speed."""
