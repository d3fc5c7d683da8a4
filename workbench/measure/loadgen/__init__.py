"""MLPerf LoadGen: scenarios, system under test, drivers, server rate."""
