package doctor

// programs are those beside airlock: there is no agent on Windows.
var programs = []string{"airlock-executor", "airlock-driver"}
