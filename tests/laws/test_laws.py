"""Every law x form x dtype x device as a test of its own, on torch itself."""

import equiv.testing


@equiv.testing.parametrize_with_laws(equiv.testing.devices_under_test())
def test_law(law):
    law()
