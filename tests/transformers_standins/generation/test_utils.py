class GenerationTesterMixin:
    """Stands in for transformers' generation tests: `test_generation_tester_mixin_inheritance` asks who inherits it."""
