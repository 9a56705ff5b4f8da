"""How a study is shown: terminal, HTML, dashboard, files."""
