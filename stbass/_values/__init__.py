"""The values that all layers share: outcomes, policies, reports, placements and ids."""
