"""Text and pictures of analysis' results: tables, figures, and the one-file page. No torch."""
