"""What the plan's checker says about a deploy to HTP."""
