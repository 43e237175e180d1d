# Runs the conformance suite of Windows containers on a real Windows Server, as an administrator, and keeps what it said:
# the same program that `make test-windows` runs on the simulator. Not run yet.
#
#   GOOS=windows go test -c -o hcs.test.exe ./isolation/hcs        (on any machine with Go)
#   powershell -ExecutionPolicy Bypass -File smoke.ps1 -Program hcs.test.exe -Layers 'C:\...\upper;C:\...\base'
#
# -Layers are the layers of an image for this host's build, upper-most first: of an image that Airlock or Docker has
# pulled (docker: the directories in layerchain.json of windowsfilter). Nothing is changed in them.
param(
    [string]$Program = ".\hcs.test.exe",
    [Parameter(Mandatory = $true)][string]$Layers,
    [string]$Output = ".\airlock-smoke",
    [switch]$WithoutHyperV
)
$ErrorActionPreference = "Stop"

$identity = [Security.Principal.WindowsPrincipal][Security.Principal.WindowsIdentity]::GetCurrent()
if (-not $identity.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) { throw "run this as an administrator" }
foreach ($layer in $Layers.Split(";")) {
    if (-not (Test-Path (Join-Path $layer "Files"))) { throw "$layer is no layer: it has no directory Files" }
}
New-Item -ItemType Directory -Force $Output | Out-Null

$version = [Environment]::OSVersion.Version
"host: $version, $((Get-CimInstance Win32_OperatingSystem).Caption)" | Tee-Object (Join-Path $Output "host.txt")
Get-Service vmcompute, hns -ErrorAction SilentlyContinue | Format-Table -AutoSize | Out-String | Tee-Object -Append (Join-Path $Output "host.txt")

$env:AIRLOCK_WINDOWS_LAYERS = $Layers
$env:HCSSHIM_TIMEOUT_SYSTEMCREATE = "90"
$env:HCSSHIM_TIMEOUT_SYSTEMSTART = "90"
$tests = @("TestRealFits", "TestRealProcessLevel")
if (-not $WithoutHyperV) { $tests += "TestRealHypervisorLevel" }
$failed = @()
foreach ($test in $tests) {
    $log = Join-Path $Output "$test.txt"
    # Errors of native programs on stderr are no errors of this script.
    $ErrorActionPreference = "Continue"
    & $Program "-test.v" "-test.timeout=30m" "-test.run=^$test$" 2>&1 | Tee-Object $log
    $status = $LASTEXITCODE
    $ErrorActionPreference = "Stop"
    if ($status -ne 0) { $failed += $test }
}
& $Program "-test.v" "-test.run=^TestRealSweep$" 2>&1 | Tee-Object (Join-Path $Output "sweep.txt")

# What was asked of the compute service and what it said, without times and ids, to be compared with the simulator's
# (AIRLOCK_TEST_OUTPUT=DIRECTORY make test-windows keeps that).
Get-Content (Join-Path $Output "Test*.txt") | Select-String '"message":"compute service"' |
    ForEach-Object { $_.Line -replace '"took_ms":[0-9.]+,?', '' -replace 'al-[0-9]+-[0-9]+', 'al' -replace 'call [0-9]+: ', '' } |
    Set-Content (Join-Path $Output "trace.txt")

if ($failed.Count -gt 0) {
    Write-Host "FAILED on this host: $($failed -join ', '); see $Output"
    exit 1
}
Write-Host "passed on this host; compare $Output with the simulator's output before you call it proven"
