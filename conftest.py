from hypothesis import settings

# The project's own property tests run the same cases each time unless pytest is given --hypothesis-seed, which
# then varies them all. Nothing is kept between runs.
settings.register_profile("equiv-tests", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("equiv-tests-random", derandomize=False, database=None, deadline=None, print_blob=True)


def pytest_configure(config):
    seed = config.getoption("hypothesis_seed", None)
    settings.load_profile("equiv-tests" if seed is None else "equiv-tests-random")
