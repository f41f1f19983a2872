# its presence puts code/ on the import path, wherever pytest is started from
