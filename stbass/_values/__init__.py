"""What everything is told in: outcomes, policies, reports, placements and ids."""
