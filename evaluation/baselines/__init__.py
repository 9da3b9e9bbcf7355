"""Other ways to edit the same decoder, as rows beside Larimar's in the same run."""
