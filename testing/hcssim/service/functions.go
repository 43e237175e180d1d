package service

// functions are those of the DLLs that are simulated. The formats are those of dll/hcssim.c.
var functions map[string]function //nolint:gochecknoglobals // a constant table, in init as its entries refer to it

// asynchronous functions return Pending when they succeed.
var asynchronous = map[string]bool{ //nolint:gochecknoglobals // a constant table
	"HcsCreateComputeSystem": true, "HcsStartComputeSystem": true, "HcsShutdownComputeSystem": true,
	"HcsTerminateComputeSystem": true, "HcsPauseComputeSystem": true, "HcsResumeComputeSystem": true,
}

func init() {
	functions = map[string]function{
		"NameToGuid":          {in: "w", out: "g", do: (*Service).nameToGUID},
		"LayerExists":         {in: "w", out: "n", do: (*Service).layerExists},
		"ProcessBaseImage":    {in: "w", do: (*Service).processBase},
		"ProcessUtilityImage": {in: "w", do: (*Service).processUtility},
		"ImportLayer":         {in: "wwl", do: (*Service).importLayer},
		"CreateSandboxLayer":  {in: "wl", do: (*Service).createScratch},
		"ExpandSandboxSize":   {in: "wn", do: (*Service).expandScratch},
		"ActivateLayer":       {in: "w", do: (*Service).activate},
		"PrepareLayer":        {in: "wl", do: (*Service).prepare},
		"GetLayerMountPath":   {in: "wn", out: "w", do: (*Service).mountPath},
		"UnprepareLayer":      {in: "w", do: (*Service).unprepare},
		"DeactivateLayer":     {in: "w", do: (*Service).deactivate},
		"DestroyLayer":        {in: "w", do: (*Service).destroy},
		"HcsDestroyLayer":     {in: "w", do: (*Service).destroy},
		"OpenVirtualDisk":     {in: "w", do: (*Service).openDisk},
		"AttachVirtualDisk":   {in: "wn", do: (*Service).attach},
		"DetachVirtualDisk":   {in: "wn", do: (*Service).detach},

		"HcsEnumerateComputeSystems":         {in: "w", out: "w", document: true, do: (*Service).enumerateSystems},
		"HcsCreateComputeSystem":             {in: "ww", out: "n", document: true, do: (*Service).createSystem},
		"HcsOpenComputeSystem":               {in: "w", out: "n", document: true, do: (*Service).openSystem},
		"HcsCloseComputeSystem":              {in: "n", do: (*Service).closeSystemHandle},
		"HcsStartComputeSystem":              {in: "nw", document: true, do: (*Service).startSystem},
		"HcsShutdownComputeSystem":           {in: "nw", document: true, do: (*Service).shutdownSystem},
		"HcsTerminateComputeSystem":          {in: "nw", document: true, do: (*Service).terminateSystem},
		"HcsPauseComputeSystem":              {in: "nw", document: true, do: (*Service).pauseSystem},
		"HcsResumeComputeSystem":             {in: "nw", document: true, do: (*Service).resumeSystem},
		"HcsGetComputeSystemProperties":      {in: "nw", out: "w", document: true, do: (*Service).systemProperties},
		"HcsRegisterComputeSystemCallback":   {in: "nn", do: (*Service).registerSystem},
		"HcsUnregisterComputeSystemCallback": {in: "n", do: (*Service).unregister},
		"HcsCreateProcess":                   {in: "nw", out: "nnnnn", document: true, do: (*Service).createProcess},
		"HcsOpenProcess":                     {in: "nn", out: "n", document: true, do: (*Service).openProcess},
		"HcsCloseProcess":                    {in: "n", do: (*Service).closeProcess},
		"HcsTerminateProcess":                {in: "n", document: true, do: (*Service).terminateProcess},
		"HcsGetProcessInfo":                  {in: "n", out: "nnnn", document: true, do: (*Service).processInfo},
		"HcsGetProcessProperties":            {in: "n", out: "w", document: true, do: (*Service).processProperties},
		"HcsModifyProcess":                   {in: "nw", document: true, do: (*Service).modifyProcess},
		"HcsRegisterProcessCallback":         {in: "nn", do: (*Service).registerProcess},
		"HcsUnregisterProcessCallback":       {in: "n", do: (*Service).unregister},

		"HNSCall":                    {in: "www", out: "w", do: (*Service).hnsCall},
		"HcnEnumerateNetworks":       {in: "w", out: "w", document: true, do: (*Service).enumerateNetworks},
		"HcnCreateNetwork":           {in: "gw", out: "n", document: true, do: (*Service).createNetwork},
		"HcnOpenNetwork":             {in: "g", out: "n", document: true, do: (*Service).openNetwork},
		"HcnQueryNetworkProperties":  {in: "nw", out: "w", document: true, do: (*Service).queryNetwork},
		"HcnDeleteNetwork":           {in: "g", document: true, do: (*Service).deleteNetwork},
		"HcnCloseNetwork":            {in: "n", do: (*Service).closeNetworkHandle},
		"HcnEnumerateEndpoints":      {in: "w", out: "w", document: true, do: (*Service).enumerateEndpoints},
		"HcnCreateEndpoint":          {in: "ngw", out: "n", document: true, do: (*Service).createEndpoint},
		"HcnOpenEndpoint":            {in: "g", out: "n", document: true, do: (*Service).openEndpoint},
		"HcnQueryEndpointProperties": {in: "nw", out: "w", document: true, do: (*Service).queryEndpoint},
		"HcnDeleteEndpoint":          {in: "g", document: true, do: (*Service).deleteEndpoint},
		"HcnCloseEndpoint":           {in: "n", do: (*Service).closeNetworkHandle},
	}
}
