use super::problems;
