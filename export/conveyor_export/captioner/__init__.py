"""A model that spells the digit it sees, letter by letter: Show, Attend and Tell in small, on data of scikit-learn."""
