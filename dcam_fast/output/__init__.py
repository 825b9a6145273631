"""Explanations as pictures, pages and folders. `Explanation` calls these modules; they do not import it."""
