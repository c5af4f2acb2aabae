"""SpecInfer's tables 1 to 3 (arXiv 2305.09781) with our models: ``python -m benchmarks.paper``, ``make paper-tables``."""
