"""Other libraries, each as somebody would use it who follows its documentation."""
