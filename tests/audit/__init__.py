"""What a wheel may hold. ``python -m tests.audit dist/*.whl`` says what is wrong with one."""
