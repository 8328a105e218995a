"""Pictures of forecasts (being drawn)."""
