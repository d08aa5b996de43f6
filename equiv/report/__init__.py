"""How findings reach people and programs: plain text that is right at 80 columns, and JSON that every parser reads."""
