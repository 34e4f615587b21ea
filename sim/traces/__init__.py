"""Long random traces through emitted units, and independent models that judge what comes out."""
